"""A small server on 127.0.0.1 that answers as the Hugging Face hub does."""

import contextlib
import hashlib
import json
import os
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listed(name, data):
    """A file as the hub lists it where `blobs` is asked for; weights are under LFS."""
    entry = {"rfilename": name, "size": len(data)}
    if name.endswith((".safetensors", ".bin")):
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\n".encode()
        return {
            **entry,
            "blobId": hashlib.sha1(pointer).hexdigest(),
            "lfs": {"sha256": sha256, "size": len(data), "pointerSize": len(pointer)},
        }
    blob = b"blob %d\0" % len(data) + data
    return {**entry, "blobId": hashlib.sha1(blob).hexdigest()}


# ------------------------------------------------------------------------ hostile answers


def endless(handler):
    """Send zeros for ever, as fast as they go."""
    handler.begin()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def trickling(handler):
    """Send a byte every tenth of a second, for ever."""
    handler.begin()
    with contextlib.suppress(OSError):
        while not handler.server.closing.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def trickling_headers(handler):
    """Send a byte of a header every tenth of a second, for ever."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.closing.wait(0.1):
            handler.wfile.write(b"x")
            handler.wfile.flush()


def endless_redirect(handler):
    """Send somebody on, and a body for ever with it."""
    handler.begin(302, Location=handler.path)
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def endless_error(handler):
    """Refuse, with an explanation for ever."""
    handler.begin(403)
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def compressed(handler):
    """Send a gigabyte as a megabyte."""
    data = zlib.compress(bytes(1 << 24), wbits=31) * 64
    handler.begin(Content_Encoding="gzip", Content_Length=str(len(data)))
    with contextlib.suppress(OSError):
        handler.wfile.write(data)


class Hub(BaseHTTPRequestHandler):
    """One repository: its listing, and its files by revision."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0]
        repository, files = self.server.repository, self.server.files
        listing = f"/api/models/{repository}"
        for ending, misbehave in self.server.hostile.items():
            if path.endswith(ending):
                return misbehave(self)
        if self.server.down:
            return self.send(503, b"down for repairs", {}, body)
        if path in (listing, *(f"{listing}/revision/{name}" for name in ("main", COMMIT))):
            siblings = [listed(name, data) for name, data in files.items()]
            siblings = [
                {**entry, **self.server.lies.get(entry["rfilename"], {})} for entry in siblings
            ]
            data = json.dumps(
                {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
            ).encode()
            return self.send(200, data, {"Content-Type": "application/json"}, body)
        if path in (f"{listing}/tree/{name}" for name in ("main", COMMIT)):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in files.items()
            ]
            data = json.dumps(tree).encode()
            return self.send(200, data, {"Content-Type": "application/json"}, body)
        for name, data in files.items():
            if path in (f"/{repository}/resolve/{r}/{name}" for r in ("main", COMMIT)):
                if self.server.gated:
                    return self.send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
                headers = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                return self.send(200, data, headers, body)
        known = (f"/{repository}/resolve/{name}/" for name in ("main", COMMIT))
        if path.startswith(tuple(known)):
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
        if path.startswith((listing, f"/{repository}/resolve/")):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        # The hub says 401 to whom it does not know, so as not to tell what is private.
        return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def send(self, status, data, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def begin(self, status=200, **headers):
        """Send headers; underscores in names stand for dashes."""
        self.close_connection = True
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, "ETag": '"0"', **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(repository, files):
    """Serve one repository; its `requests`, `files`, `down` and `gated` may be changed.

    `hostile` has functions that answer in place of it, by the end of a path, and `lies` what is
    listed in place of the truth, by file.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.down, server.gated = [], False, False
    server.hostile, server.lies, server.closing = {}, {}, threading.Event()
    server.daemon_threads = True
    server.repository, server.files = repository, files
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def environment_of(server, cache):
    """Of a process whose hub is the server and whose cache is `cache`."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    return {
        **kept,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
