"""Headless Chromium, controlled by its DevTools protocol over two pipes, without a driver.

    python -m tests.audio.browser listening.html picture.png

takes the picture of a listening page in audio/README.md, with its models side by side.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READS, WRITES = 3, 4
"""File descriptors that Chromium uses with --remote-debugging-pipe."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
LIMIT = 60.0
"""Time limit of a browser (seconds)."""
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """Open page: commands go out on one pipe, answers and events come in on the other."""

    def __init__(self, out: int, into: int) -> None:
        self._out = os.fdopen(out, "wb", buffering=0)
        self._into = os.fdopen(into, "rb")
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a protocol command. Raises AssertionError if the browser refuses it."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        self._out.write(json.dumps(command).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaiting promises. AssertionError if it throws."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._into.read(1)) != b"\0":
            assert byte, "Chromium ended or did not answer in time"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def open_page(path: Path, chromium: str, profile: Path) -> Iterator[Page]:
    """Open a file in a new browser that ends with the block. profile: an empty folder."""
    commands, out = os.pipe()
    into, answers = os.pipe()

    def connect() -> None:
        """Move the browser's pipe ends to READS and WRITES, by way of free descriptors."""
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        for end, descriptor in zip(ends, (READS, WRITES), strict=True):
            os.dup2(end, descriptor)

    process = subprocess.Popen(
        [chromium, *OPTIONS, f"--user-data-dir={profile}"],
        preexec_fn=connect,
        close_fds=False,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    limit = threading.Timer(LIMIT, process.kill)
    limit.start()
    try:
        page = Page(out, into)
        page.call("Page.enable")
        page.call("Page.navigate", url=path.resolve().as_uri())
        page.evaluate("new Promise((done) => document.readyState === 'complete' ? done() : (onload = done))")
        yield page
    finally:
        limit.cancel()
        process.terminate()
        process.wait()


def screenshot(page: Page, width: int, height: int) -> bytes:
    """Return the window at this size as PNG."""
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    return base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as profile,
        open_page(
            Path(sys.argv[1]), find_chromium() or sys.exit("There is no Chromium."), Path(profile)
        ) as page,
    ):
        page.evaluate("document.getElementById('side-by-side').click()")
        Path(sys.argv[2]).write_bytes(screenshot(page, 1200, 900))
