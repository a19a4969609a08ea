"""ONNX: operations, graphs, and the dialects that backends read best."""
