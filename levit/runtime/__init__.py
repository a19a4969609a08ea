"""Artifact → answers. Imports neither ``levit.models``, ``levit.export`` nor PyTorch."""
