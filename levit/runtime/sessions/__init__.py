"""Sessions: one file per backend."""
