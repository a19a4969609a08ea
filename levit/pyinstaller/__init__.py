"""Hook of PyInstaller, which finds this folder by the package's entry point."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """List the folders of hooks, for PyInstaller."""
    return [str(Path(__file__).parent)]
