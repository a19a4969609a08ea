"""The exact algebra: one function a pass, by what it is about. `levit.export.passes` runs them."""
