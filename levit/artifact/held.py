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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Queue
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

_PART_BYTES: Final = 2**18
# Parts that wait for the thread that hashes, at most; and the size of files that have one.
_MOST_WAITING: Final = 8
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
        try:
            _compare(path, file, entry, memory)
            memory.flush()
            if not isinstance(memory, io.BytesIO):
                _seal(memory.fileno())
        except BaseException:
            memory.close()
            raise
    return HeldFile(path, memory)


def read_whole(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a file, and compare it with the manifest's entry for it.

    Raises:
        CorruptArtifactError: as of `hold`.
    """
    with _checked(path, entry) as file:
        data = file.read(entry["size_bytes"] + 1)
        if len(data) != entry["size_bytes"] or _sha256(data) != entry["sha256"]:
            raise _changed(path)
        return data


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


def _compare(
    path: Path, file: BinaryIO, entry: Mapping[str, Any], target: BinaryIO | None = None
) -> None:
    """Hash a file, copy it to `target`, and raise unless it is the one that was written."""
    left: int = entry["size_bytes"]
    # There is little to do beside hashing where nothing is written.
    with _hashing(0 if target is None else left) as (digest, update):
        # One byte more than there may be: a file that has grown is found, and read no further.
        while part := file.read(min(_PART_BYTES, left + 1)):
            left -= len(part)
            if left < 0:
                break
            update(part)
            if target is not None:
                target.write(part)
    if left != 0 or digest.hexdigest() != entry["sha256"]:
        raise _changed(path)


def _changed(path: Path) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path}: its contents have changed since it was written; copy it again, or export again"
    )


@contextlib.contextmanager
def _hashing(size: int) -> Iterator[tuple[Any, Callable[[bytes], object]]]:
    """Give a SHA-256, complete behind the block, and the function that takes the parts for it.

    Hashing 31 MB takes 23 ms; reading them, and writing them to new memory, 16. So a thread hashes
    a large file beside that, where the system has one to give.
    """
    digest = hashlib.sha256()
    parts: Queue[bytes] = Queue(_MOST_WAITING)

    def hash_parts() -> None:
        while part := parts.get():
            digest.update(part)

    thread = threading.Thread(target=hash_parts, name="levit hash")
    if size < _LARGE_BYTES or not _started(thread):
        yield digest, digest.update
        return
    try:
        yield digest, parts.put
    finally:
        parts.put(b"")
        thread.join()


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # the system gives no more
        return False
    return True


def _memory(path: Path, size: int) -> BinaryIO:
    """Make a file in memory for so many bytes."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox
        file = os.fdopen(os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
        try:
            file.truncate(size)
        except OSError:  # files of this process may be no longer (ulimit -f)
            file.close()
            raise
        return file
    return io.BytesIO()


def _seal(descriptor: int) -> None:
    import fcntl  # not on Windows

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
