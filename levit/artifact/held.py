"""Files of an artifact, opened once: what is hashed is what is read.

Between a hash and the loading of a file by its name another process can put another file in its
place. So a file is copied once into memory that nobody can write to any more (a sealed memfd of
Linux; the process's own memory elsewhere), is hashed on the way, and is scanned and loaded from
there.

Source: memfd_create(2), fcntl(2), "File Sealing".
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

from levit.artifact.names import GOLDEN_FILE, LABELS_FILE, OPENVINO_FILE
from levit.errors import CorruptArtifactError
from levit.plain_file import is_lfs_pointer, open_plain

__all__ = ["HeldFile", "hold", "read_whole", "verify"]

# The most bytes that a file may have before any of it is read.
_MOST_BYTES: Final = {
    LABELS_FILE: 2**24,  # ImageNet's 21,841 names are 0.7 MB
    OPENVINO_FILE: 2**26,  # 0.3 MB of LeViT-128S; large convolution variants have twice that
    GOLDEN_FILE: 2**29,  # 2 MB at 224 pixels and 50 MB at 1024; features of ViT add as much
}
# Weights: ViT of a thousand million parameters in float32, twice.
_MOST_OTHERS: Final = 2**33

_PART_BYTES: Final = 2**20
_LARGE_BYTES: Final = 2**22
# Texts of an artifact are shorter, and of longer files git converts no line ends.
_LONGEST_TEXT: Final = 2**26


class HeldFile:
    """Contents of a file that was hashed, to be closed.

    ::

        with artifact.hold("model.onnx") as file:
            scan(file.mapped())
            session = InferenceSession(file.path or file.read())

    Attributes:
        name: path of the file that it was read from, for messages.
        path: a path that stands for the contents until this is closed; None where a system has
            none.
    """

    def __init__(self, name: Path, stream: BinaryIO) -> None:
        self.name = name
        self.path: str | None = None
        self._stream = stream
        self._map: mmap.mmap | None = None
        if not isinstance(stream, io.BytesIO):
            path = f"/proc/self/fd/{stream.fileno()}"
            self.path = path if os.path.exists(path) else None  # /proc may not be there

    def __enter__(self) -> HeldFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back, as soon as nothing refers to it any more."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # who still reads it keeps it
                self._map.close()
            self._map = None
        with contextlib.suppress(BufferError):
            self._stream.close()

    @property
    def stream(self) -> BinaryIO:
        """A seekable binary file of the contents, at its beginning."""
        self._stream.seek(0)
        return self._stream

    def mapped(self) -> memoryview:
        """Return the contents as memory that is read only where it is looked at.

        It outlives `close` for whoever still refers to it.
        """
        if isinstance(self._stream, io.BytesIO):
            return self._stream.getbuffer().toreadonly()
        if self._map is None and os.fstat(self._stream.fileno()).st_size:
            # Linux before 6.7 allows no other mapping of what is sealed.
            try:
                self._map = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_COPY)
            except OSError as error:
                raise MemoryError(f"{self.name}: no room for its map") from error
        return memoryview(self._map or b"").toreadonly()

    def read(self) -> bytes:
        """Return a copy of the contents."""
        return self.stream.read()


def hold(path: Path, entry: Mapping[str, Any]) -> HeldFile:
    """Copy a file into memory, and compare it with the manifest's entry for it.

    Raises:
        CorruptArtifactError: it is missing, no regular file, or differs.
    """
    with _checked(path, entry) as file:
        memory = _memory(path, entry["size_bytes"])
        if memory is None:
            return HeldFile(path, io.BytesIO(_whole(path, file, entry)))
        held = HeldFile(path, memory)
        try:
            digest = _copy(file, memory.fileno(), held.mapped())
            grown = os.fstat(file.fileno()).st_size > entry["size_bytes"]
            if grown or digest != entry["sha256"]:
                raise _changed(path)
            _seal(memory.fileno())
        except BaseException:
            held.close()
            raise
        return held


def read_whole(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a file, and compare it with the manifest's entry for it.

    Raises:
        CorruptArtifactError: as of `hold`.
    """
    with _checked(path, entry) as file:
        return _whole(path, file, entry)


def verify(path: Path, entry: Mapping[str, Any], *, hashes: bool = True) -> None:
    """Compare a file with the manifest's entry for it, and keep nothing.

    Raises:
        CorruptArtifactError: as of `hold`.
    """
    with _checked(path, entry) as file:
        if hashes:
            _compare(path, file, entry)


@contextlib.contextmanager
def _checked(path: Path, entry: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open a file that has the right size."""
    try:
        with open_plain(path, _MOST_BYTES.get(path.name, _MOST_OTHERS)) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["size_bytes"]:
                raise CorruptArtifactError(_of_another_size(path, file, size, entry))
            yield file
    except FileNotFoundError as error:
        raise CorruptArtifactError(
            f"{path}: is missing; copy the whole folder, or export again"
        ) from error
    except (OSError, ValueError) as error:  # of a name that no file can have
        raise CorruptArtifactError(f"{path}: cannot be read ({_said(error)})") from error


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _of_another_size(path: Path, file: BinaryIO, size: int, entry: Mapping[str, Any]) -> str:
    data = file.read(_LONGEST_TEXT) if size <= _LONGEST_TEXT else b""
    if is_lfs_pointer(data):
        return f"{path}: is a pointer of Git LFS, not the file: run git lfs pull"
    restored = data.replace(b"\r\n", b"\n")
    if len(restored) == entry["size_bytes"] and _sha256(restored) == entry["sha256"]:
        return (
            f"{path}: its line ends were converted, as git does on Windows: set "
            f"'* -text' in a .gitattributes beside it, and check it out again"
        )
    return (
        f"{path}: has {size} bytes where {entry['size_bytes']} were written; "
        f"copy it again, or export again"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _whole(path: Path, file: BinaryIO, entry: Mapping[str, Any]) -> bytes:
    # One byte more than there may be: a file that has grown is found, and read no further.
    data = file.read(entry["size_bytes"] + 1)
    if len(data) != entry["size_bytes"] or _sha256(data) != entry["sha256"]:
        raise _changed(path)
    return data


def _compare(path: Path, file: BinaryIO, entry: Mapping[str, Any]) -> None:
    """Raise unless a file is the one that was written."""
    digest, left = hashlib.sha256(), entry["size_bytes"]
    while left >= 0 and (part := file.read(min(_PART_BYTES, left + 1))):
        digest.update(part)
        left -= len(part)
    if left != 0 or digest.hexdigest() != entry["sha256"]:
        raise _changed(path)


def _changed(path: Path) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path}: its contents have changed since it was written; copy it again, or export again"
    )


def _copy(file: BinaryIO, target: int, copied: memoryview) -> str:
    """Copy the length of `copied` of a file to a descriptor, and return its hash.

    Hashing 31 MB takes 23 ms and copying them to new memory 12. So a thread hashes a large file
    beside the copying, where the system has one to give.

    Args:
        copied: memory in which the copy is seen.
    """
    digest, hashed, size = hashlib.sha256(), 0, len(copied)
    ends: SimpleQueue[int] = SimpleQueue()

    def hash_parts() -> None:
        nonlocal hashed
        while hashed < (end := ends.get()):
            digest.update(copied[hashed:end])
            hashed = end

    # A daemon: should an exception of a signal's handler keep the end from it, nobody waits for it.
    thread = threading.Thread(target=hash_parts, daemon=True, name="levit hash")
    started = size >= _LARGE_BYTES and _started(thread)
    at = 0
    try:
        while count := os.sendfile(target, file.fileno(), at, min(_PART_BYTES, size - at)):
            at += count
            ends.put(at)
    finally:
        ends.put(0)
        if started:
            thread.join()
    digest.update(copied[hashed:])  # all of it, where there is no thread
    return digest.hexdigest()


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # the system gives no more
        return False
    return True


def _memory(path: Path, size: int) -> BinaryIO | None:
    """Make a file in memory for so many bytes; None where the system has none."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox
        file = os.fdopen(os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "rb")
        try:
            os.ftruncate(file.fileno(), size)
        except OSError:  # files of this process may be no longer (ulimit -f)
            file.close()
            raise
        return file
    return None


def _seal(descriptor: int) -> None:
    import fcntl  # not on Windows

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
