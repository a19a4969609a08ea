"""Debian's Chromium through its WebDriver, which speaks plain HTTP: no library, no download."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)

# Whatever proxy this machine has, the driver is on it.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Page:
    """One window: `open` a file, ask it with JavaScript, take its picture."""

    def __init__(self, address):
        self._address = address

    def open(self, path):
        self.log("performance"), self.log("browser")  # of the page before
        self._post("url", {"url": path.as_uri()})

    def ask(self, script, *arguments):
        """What the body of a function returns."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def emulate(self, width=1280, height=900, scheme="light", scale=1):
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        # A phone lays scroll bars over the page.
        self.devtools("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def devtools(self, command, **parameters):
        return self._post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def picture(self, whole=False):
        """PNG bytes of what can be seen, or of the whole page."""
        # Once what was emulated has been drawn: on a busy machine that takes a while.
        frame = "requestAnimationFrame"
        drawn = f"const done = arguments[0]; {frame}(() => {frame}(done))"
        self._post("execute/async", {"script": drawn, "args": []})
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def log(self, kind):
        return self._post("se/log", {"type": kind})

    def requests(self):
        """Addresses that the page has asked for since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]

    def _post(self, command, value):
        return _send(f"{self._address}/{command}", value)


@contextlib.contextmanager
def browser(profile):
    """A `Page` of a fresh Chromium, whose profile is the folder `profile`."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    with subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            port = next(
                m[1]
                for line in process.stdout
                if (m := re.search(r"successfully on port (\d+)", line))
            )
            options = {"binary": binary, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            }
            server = f"http://127.0.0.1:{port}/session"
            session = _send(server, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            yield Page(f"{server}/{session}")
            _send(f"{server}/{session}", None, "DELETE")
        finally:
            process.terminate()


def _send(address, value, method="POST"):
    data = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(
        address, data, {"Content-Type": "application/json"}, method=method
    )
    try:
        with _OPENER.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
