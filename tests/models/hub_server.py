"""A small server on 127.0.0.1 that answers as the Hugging Face hub does."""

import contextlib
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
        if self.server.down:
            return self.send(503, b"down for repairs", {}, body)
        if path in (listing, *(f"{listing}/revision/{name}" for name in ("main", COMMIT))):
            siblings = [{"rfilename": name} for name in files]
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

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(repository, files):
    """A hub with one repository; its `requests`, `files`, `down` and `gated` may be changed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.down, server.gated = [], False, False
    server.repository, server.files = repository, files
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
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
