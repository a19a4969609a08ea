"""Pictures: path, bytes, file or array → pixels → the tensor that a network takes."""
