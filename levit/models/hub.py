"""Published weights from the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

import contextlib
import glob
from pathlib import Path
from typing import Any

from levit.errors import CheckpointError, brief
from levit.models.checkpoint import CONFIGS
from levit.models.containers.listing import listing
from levit.models.containers.shards import INDEX, WEIGHTS, shard_names
from levit.models.hub_files import Repository
from levit.models.hub_transfer import StatusError

__all__ = ["download"]


def download(name: str) -> tuple[Path, dict[str, Any]]:
    """Fetch a repository's weights and configs, or find them in the cache.

    Of the forms in which a repository holds the same weights one is fetched, the first of
    `WEIGHTS`: most hold .safetensors and PyTorch's, TensorFlow's and others' beside it.

    Args:
        name: ``owner/name`` or ``owner/name@revision``.

    Returns:
        The folder that holds the files, and (repository, revision) for the manifest.

    Raises:
        CheckpointError: the hub cannot be reached and the files are not cached, the repository
            does not have them, or not for everybody, or a file is not what the hub lists.
    """
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise CheckpointError(
            "fetching published weights needs huggingface-hub: pip install 'levit[export]'"
        ) from error
    try:
        folder = _fetch(name, Repository(repository, revision))
    except CheckpointError:
        raise
    except HFValidationError as error:
        raise CheckpointError(f"hf:{name}: not a repository name (owner/name)") from error
    except Exception as error:  # of the hub's library, of its HTTP library, of the system
        cached = _find_cached(name)
        if cached is None:
            raise CheckpointError(f"hf:{name}: {_reason(error)}") from error
        folder = cached
    # The cache names its folders by commit.
    return folder, {"repository": repository, "revision": folder.name}


def _fetch(name: str, repository: Repository) -> Path:
    """Download what is wanted of the files that the hub lists."""
    listed = repository.listing()
    weights = next((file for file in WEIGHTS if file in listed.files), None)
    if weights is None:
        raise CheckpointError(
            f"hf:{name}: the repository has no {' or '.join(WEIGHTS[::2])}; pass the file that "
            f"holds the weights with --checkpoint PATH"
        )
    configs = [file for file in CONFIGS if file in listed.files]
    folder = repository.fetch(listed, [*configs, weights])
    if weights.endswith(INDEX):
        shards = list(shard_names(folder / weights))
        missing = [file for file in shards if file not in listed.files]
        if missing:
            raise CheckpointError(
                f"hf:{name}: {weights} names {listing(missing[:1])}, which is not there"
            )
        folder = repository.fetch(listed, shards)
    return folder


def _find_cached(name: str) -> Path | None:
    """The folder of what was fetched before, if it is all there."""
    for weights in WEIGHTS:
        # It raises where the cache has no such repository or revision, or knows that a file of
        # these is missing; older versions of the library do not know.
        with contextlib.suppress(Exception):
            folder = _cached_snapshot(name, weights)
            if not (folder / weights).is_file():
                continue
            shards = shard_names(folder / weights) if weights.endswith(INDEX) else ()
            if all((folder / shard).is_file() for shard in shards):
                return folder
    return None


def _cached_snapshot(name: str, weights: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    return Path(
        snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[glob.escape(file) for file in (*CONFIGS, weights)],
            local_files_only=True,
        )
    )


def _reason(error: Exception) -> str:
    """Explain a download that failed."""
    match error:
        case StatusError(code="GatedRepo"):
            return (
                "its owner asks for consent: give it on the repository's page, and log in with hf "
                "auth login or HF_TOKEN"
            )
        # The hub says 401 to whom it does not know, so as not to tell what is private.
        case StatusError(code="RepoNotFound") | StatusError(status=401):
            return (
                "the hub has no such repository, or it is private: check the name, or log in with "
                "hf auth login or HF_TOKEN"
            )
        case StatusError(code="RevisionNotFound"):
            return "the repository has no such revision: check what follows the @"
    return (
        f"cannot be fetched and is not cached ({brief(error)}); check the network and the name, "
        f"or download the repository elsewhere and pass --checkpoint PATH"
    )
