"""Files of a repository on the Hugging Face hub, or on a mirror of it that lies.

The hub's library names files of its cache after an ``ETag`` header, whatever is in it, and takes
any number of bytes and pages, however slowly they come. So only its client, token and cache are
used here: a repository is listed once, by its API, and a file is what its listing says, of that
length and hash, under the name of that hash. No name that a server sends becomes a path.

The cache's layout is the library's (``blobs``, ``snapshots``, ``refs``), which finds it again.

Source: huggingface_hub/file_download.py, and https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from levit.errors import CheckpointError
from levit.json_values import parsed
from levit.models.hub_transfer import Progress, hub_utils, transfer, watched

__all__ = ["Listing", "Repository"]

# 300 bytes a file; repositories of models have a hundred, of data sets thousands.
_LONGEST_LISTING_BYTES: Final = 8 << 20
_LONGEST_CONFIG_BYTES: Final = 16 << 20  # as `levit.models.json_files` reads
# DeiT III's largest takes 2.5 GB. Only where the listing says no length.
_LONGEST_WEIGHTS_BYTES: Final = 16 << 30
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A file as the listing has it: each is None where the listing does not say."""

    size_bytes: int | None
    sha256: str | None
    git_sha1: str | None

    @property
    def blob(self) -> str | None:
        """Name in the cache, as the hub's own servers send it for an ETag."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files of one commit, by name."""

    commit: str
    files: Mapping[str, _Listed]


class Repository:
    """A repository of models.

    Args:
        name: ``owner/name``.
        revision: a branch, a tag or a commit; empty for the main branch.

    Raises:
        CheckpointError: the revision is no name.
        huggingface_hub.errors.HFValidationError: the name is none.
    """

    def __init__(self, name: str, revision: str) -> None:
        from huggingface_hub import constants

        hub_utils().validate_repo_id(name)
        if any(part in ("", ".", "..") for part in revision.split("/")) and revision:
            raise CheckpointError(f"hf:{name}@{revision}: not the name of a revision")
        self._name = name
        self._revision = revision
        self._endpoint = str(constants.ENDPOINT).rstrip("/")
        self._folder = Path(constants.HF_HUB_CACHE).expanduser() / "--".join(
            ["models", *name.split("/")]
        )

    def listing(self) -> Listing:
        """List the files of the revision.

        Raises:
            CheckpointError: the answer is no listing.
            OSError: the hub cannot be reached, or refuses (`StatusError`).
        """
        at = f"/revision/{quote(self._revision, safe='')}" if self._revision else ""
        url = f"{self._endpoint}/api/models/{self._name}{at}?blobs=true"
        data = watched(lambda progress: _small(url, self._endpoint, progress))
        try:
            return _listing(parsed(data.decode()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"hf:{self._name}: {self._endpoint} answers with no list of files; check "
                f"HF_ENDPOINT"
            ) from error

    def fetch(self, found: Listing, names: Sequence[str]) -> Path:
        """Download files of a listing, or find them in the cache.

        Returns:
            The folder that holds them.

        Raises:
            CheckpointError: a file is not what the listing says.
            OSError: the hub cannot be reached or refuses, or the disk is full.
        """
        folder = self._folder / "snapshots" / found.commit
        for name in names:
            self._fetch(folder, name, found.files[name])
        reference = self._folder / "refs" / (self._revision or "main")
        if self._revision != found.commit:
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(found.commit)
        return folder

    def _fetch(self, folder: Path, name: str, listed: _Listed) -> None:
        pointer = folder / name
        if pointer.is_file() and _problem(pointer, listed) is None:
            return
        blobs = self._folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        part = blobs / f"{uuid.uuid4().hex}.incomplete"
        try:
            with part.open("w+b") as stream:
                self._download(stream, folder.name, name, listed)
            problem = _problem(part, listed)
            if problem is not None:
                raise CheckpointError(
                    f"hf:{self._name}: {name} {problem}; it was changed on the way, or the mirror "
                    f"is not to be trusted: check HF_ENDPOINT, or download it elsewhere and pass "
                    f"--checkpoint PATH"
                )
            blob = blobs / (listed.blob or _digest(part))
            part.replace(blob)
        finally:
            part.unlink(missing_ok=True)
        _link(blob, pointer)

    def _download(self, stream: BinaryIO, commit: str, name: str, listed: _Listed) -> None:
        is_config = name.endswith(".json")
        most = _LONGEST_CONFIG_BYTES if is_config else _LONGEST_WEIGHTS_BYTES
        if listed.size_bytes is not None:
            if listed.size_bytes > most:
                raise CheckpointError(
                    f"hf:{self._name}: {name} has {listed.size_bytes:,} bytes (at most {most:,}); "
                    f"download what you need of it, and pass --checkpoint PATH"
                )
            most = listed.size_bytes
            if shutil.disk_usage(self._folder).free < most:
                raise CheckpointError(
                    f"hf:{self._name}: {name} has {most:,} bytes, for which {self._folder} has no "
                    f"room: set HF_HOME to a folder on a larger disk"
                )
        url = f"{self._endpoint}/{self._name}/resolve/{commit}/{quote(name)}"
        watched(
            lambda progress: transfer(url, self._endpoint, stream, most, progress),
            bar=None if is_config else (name, listed.size_bytes),
        )


def _small(url: str, endpoint: str, progress: Progress) -> bytes:
    stream = io.BytesIO()
    transfer(url, endpoint, stream, _LONGEST_LISTING_BYTES, progress)
    return stream.getvalue()


def _listing(values: Mapping[str, Any]) -> Listing:
    """Check a listing.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    commit = values["sha"]
    if _COMMIT.fullmatch(commit) is None:
        raise ValueError("no commit")
    return Listing(
        commit=commit,
        files={str(file["rfilename"]): _listed(file) for file in values["siblings"]},
    )


def _listed(file: Mapping[str, Any]) -> _Listed:
    lfs = file.get("lfs") or {}
    size, sha256, git_sha1 = file.get("size"), lfs.get("sha256"), file.get("blobId")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("no size")
    for value, pattern in ((sha256, _SHA256), (git_sha1, _COMMIT)):
        if value is not None and pattern.fullmatch(value) is None:
            raise ValueError("no hash")
    # Where LFS holds a file, git's hash is that of a pointer to it.
    return _Listed(size_bytes=size, sha256=sha256, git_sha1=None if sha256 else git_sha1)


def _problem(path: Path, listed: _Listed) -> str | None:
    """Say how a file differs from its listing, a part of a line; None where it does not."""
    size = path.stat().st_size
    if listed.size_bytes not in (None, size):
        return f"has {size:,} bytes, and the hub lists {listed.size_bytes:,}"
    if listed.sha256 is not None and _digest(path) != listed.sha256:
        return f"has another SHA-256 than the hub lists ({listed.sha256})"
    if listed.git_sha1 is not None:
        # Git's name for the contents: SHA-1 stops no forger, but nothing better is listed.
        start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if _digest(path, lambda: start) != listed.git_sha1:
            return f"has another hash than the hub lists ({listed.git_sha1})"
    return None


def _digest(path: Path, start: Callable[[], Any] = hashlib.sha256) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, start).hexdigest()


def _link(blob: Path, pointer: Path) -> None:
    """Make a file of a snapshot: a link where the system has links, else the file itself."""
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except FileExistsError:  # another process was as fast, with the same bytes
        pass
    except OSError:  # Windows, without the right to make links
        shutil.copyfile(blob, pointer)
