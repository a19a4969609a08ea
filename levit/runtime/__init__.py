"""Artifact → answers. Imports neither ``levit.models``, ``levit.export`` nor PyTorch."""

import os

# From 1.29 on, ONNX Runtime reports its use to its maker and keeps a number for the machine in the
# user's cache folder, unless this is set before it is first imported. Whoever wants that sets it
# to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
