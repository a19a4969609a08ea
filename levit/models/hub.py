"""Published weights from the Hugging Face hub, through its own library and cache."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from levit.errors import CheckpointError, brief

__all__ = ["download"]

_FILES = ("model.safetensors", "config.json")


def download(name: str) -> tuple[Path, dict[str, Any]]:
    """Fetch a repository's weights and config, or find them in the cache.

    Args:
        name: ``owner/name`` or ``owner/name@revision``.

    Returns:
        The folder that holds the files, and (repository, revision) for the manifest.

    Raises:
        CheckpointError: the hub cannot be reached and the files are not cached, or the
            repository does not have them.
    """
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise CheckpointError(
            "fetching published weights needs huggingface-hub: pip install 'levit[export]'"
        ) from error
    try:
        with _bars_on_terminals_only():
            folder = Path(
                snapshot_download(
                    repository, revision=revision or None, allow_patterns=list(_FILES)
                )
            )
    except HFValidationError as error:
        raise CheckpointError(f"hf:{name}: not a repository name (owner/name)") from error
    except Exception as error:  # of the hub's library, of its HTTP library, of the system
        raise CheckpointError(
            f"hf:{name}: cannot be fetched and is not cached ({brief(error)}); check the network "
            f"and the name, or download model.safetensors elsewhere and pass --checkpoint PATH"
        ) from error
    if not (folder / _FILES[0]).is_file():
        raise CheckpointError(
            f"hf:{name}: the repository, or what is cached of it, has no {_FILES[0]}; check the "
            f"network"
        )
    # The cache names its folders by commit.
    return folder, {"repository": repository, "revision": folder.name}


@contextlib.contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """The hub's library draws its bars in a pipe too."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()
