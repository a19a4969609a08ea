"""Bytes from a server that may send any number of them, slowly, or send somebody elsewhere.

The client is the hub's library's, which is one of httpx's kind, or of requests' in its releases
before 1.0. Lengths are limited while bytes come, redirects are followed here, and whoever waits
does so beside the thread that is read in, so that no server can hold it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import urljoin, urlsplit

__all__ = ["Progress", "StatusError", "TooLongError", "hub_utils", "transfer", "watched"]

T = TypeVar("T")

# In so many seconds so many bytes must come, or the end: 35 kbit/s, which a telephone line brings.
PATIENCE_S = 60.0
_LEAST_BYTES: Final = 256 << 10
# Between two parts of one answer, as the hub's library waits.
_TIMEOUT_S: Final = 10.0
_TRIES: Final = 4
_MOST_REDIRECTS: Final = 8
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PAUSE_S: Final = 0.1


def hub_utils() -> Any:
    """Import public functions of the hub's library, which it does not declare to type checkers."""
    return importlib.import_module("huggingface_hub.utils")


class StatusError(OSError):
    """The server refuses a request.

    Attributes:
        status: of HTTP.
        code: the hub's own word for the reason, or "".
    """

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the server answers {status}")
        self.status = status
        self.code = code


class TooLongError(OSError):
    """The server sends more than there can be."""


@dataclass
class Progress:
    """Messages between two threads: bytes that have come, and that nobody waits any more."""

    count: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


def watched(work: Callable[[Progress], T], bar: tuple[str, int | None] | None = None) -> T:
    """Do what waits for a server in another thread, as long as bytes come.

    Args:
        work: function of a `Progress`, which it counts bytes in.
        bar: title and length of a bar on the terminal.

    Raises:
        TimeoutError: fewer bytes than anybody waits for have come.
        Exception: whatever `work` raises.
    """
    progress = Progress()
    done = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(progress))
        except BaseException as error:  # raised again where somebody waits
            errors.append(error)
        finally:
            done.set()

    # A daemon: one that hangs in a server's hands may not hold the end of the process.
    thread = threading.Thread(target=run, daemon=True, name="levit hub")
    thread.start()
    try:
        with _bar(bar) as advance:
            _wait(progress, done, advance)
    finally:
        progress.stop.set()
    thread.join(_TIMEOUT_S)  # it only has to leave; none of it may be left when Python ends
    if errors:
        raise errors[0]
    return results[0]


def _wait(progress: Progress, done: threading.Event, advance: Callable[[int], object]) -> None:
    shown = mark = 0
    marked_at = time.monotonic()
    while not done.wait(_PAUSE_S):
        count = progress.count
        advance(count - shown)
        shown = count
        if count - mark >= _LEAST_BYTES:
            mark, marked_at = count, time.monotonic()
        elif time.monotonic() - marked_at > PATIENCE_S:
            raise TimeoutError(
                f"{count - mark:,} bytes have come in the last {PATIENCE_S:.0f} seconds"
            )
    advance(progress.count - shown)


@contextlib.contextmanager
def _bar(bar: tuple[str, int | None] | None) -> Iterator[Callable[[int], object]]:
    if bar is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    # The library's own, which knows its switches.
    with hub_utils().tqdm(desc=bar[0], total=bar[1], unit="B", unit_scale=True) as drawn:
        yield drawn.update


def transfer(
    url: str, endpoint: str, stream: BinaryIO, most_bytes: int, progress: Progress
) -> None:
    """Write the body that a server has for a URL, as it is sent, to a file.

    A transfer that breaks off goes on where it was; one of a server that is busy begins again.

    Args:
        endpoint: the hub's address, which alone gets the user's token.
        stream: an empty file, open for reading and writing.

    Raises:
        TooLongError: there are more bytes than `most_bytes`.
        StatusError: the server refuses.
        OSError: it cannot be reached, or what it says is no HTTP.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    for i in range(_TRIES):
        if i:
            progress.stop.wait(2.0 ** (i - 1))
        try:
            _transfer_once(url, endpoint, stream, most_bytes, progress)
        except (TooLongError, MemoryError):
            raise
        except StatusError as error:
            # Statuses that pass, without 503: a server under repair stays so for longer.
            if error.status not in (408, 429, 500, 502, 504) or i + 1 == _TRIES:
                raise
        except Exception:  # of the client's library: the line broke
            if stream.tell() == 0 or progress.stop.is_set() or i + 1 == _TRIES:
                raise
        else:
            return


def _transfer_once(
    url: str, endpoint: str, stream: BinaryIO, most_bytes: int, progress: Progress
) -> None:
    start = stream.tell()
    with _followed(url, endpoint, start) as (status, chunks):
        if status != 206 and start:
            stream.seek(0)
            stream.truncate()
        for chunk in chunks:
            if progress.stop.is_set():
                raise OSError("nobody waits for it any more")
            if stream.tell() + len(chunk) > most_bytes:
                raise TooLongError(f"it sends more than {most_bytes:,} bytes")
            stream.write(chunk)
            progress.count += len(chunk)


@contextlib.contextmanager
def _followed(url: str, endpoint: str, start: int) -> Iterator[tuple[int, Iterable[bytes]]]:
    """Open a URL, or the one that it leads to: (status, parts of the body)."""
    for _ in range(_MOST_REDIRECTS):
        with _opened(url, _headers(url, endpoint, start)) as (status, headers, chunks):
            if status in (200, 206):
                if headers.get("content-encoding", "identity") != "identity":
                    raise OSError("it sends compressed bytes, which were not asked for")
                yield status, chunks
                return
            if status not in _REDIRECTS:
                raise StatusError(status, headers.get("x-error-code", ""))
            target = urljoin(url, headers.get("location", ""))
        if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
            raise OSError("it leads to an address without https")
        url = target
    raise OSError(f"it leads to more than {_MOST_REDIRECTS} addresses in turn")


def _headers(url: str, endpoint: str, start: int) -> dict[str, str]:
    headers = {
        str(key).lower(): str(value) for key, value in hub_utils().build_hf_headers().items()
    }
    if urlsplit(url)[:2] != urlsplit(endpoint)[:2]:
        headers.pop("authorization", None)
    headers["accept-encoding"] = "identity"
    if start:
        headers["range"] = f"bytes={start}-"
    return headers


@contextlib.contextmanager
def _opened(
    url: str, headers: Mapping[str, str]
) -> Iterator[tuple[int, Mapping[str, str], Iterable[bytes]]]:
    """Open a URL: (status, headers, parts of the body, none of which is read unasked)."""
    session = hub_utils().get_session()
    if callable(getattr(session, "stream", None)):  # of httpx's kind; requests has a flag
        with session.stream(
            "GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=False
        ) as response:
            yield response.status_code, response.headers, response.iter_raw()
        return
    # Its own get() reads the whole body of a redirect, followed or not.
    request = importlib.import_module("requests").Request("GET", url, headers=dict(headers))
    prepared = session.prepare_request(request)
    settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
    adapter = session.get_adapter(prepared.url)
    with adapter.send(prepared, timeout=_TIMEOUT_S, **settings) as response:
        chunks = response.raw.stream(1 << 16, decode_content=False)
        yield response.status_code, response.headers, chunks
