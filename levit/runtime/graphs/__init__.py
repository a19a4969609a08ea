"""Graphs as `levit export` writes them: their operators, shapes and sizes.

The scans of ONNX files and of OpenVINO's IR read a payload by these tables, and refuse every
operator, attribute, type and size that the exporter does not write.
"""
