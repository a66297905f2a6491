"""File server on 127.0.0.1 with configurable faults, for the tests of downloads."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """Answer to one request for a file; correct by default.

    stop_after: bytes of the body before the connection closes. announced: Content-Length instead of the true
    one, "" for none. body: content instead of the file. ranges, if_range: whether Range and If-Range are
    honoured. shift: added to the first byte of a range, in the content and in Content-Range. longest: bytes
    of the longest range. compresses: sends gzip to clients that accept it.
    """

    status: int = 200
    stop_after: int | None = None
    announced: str | None = None
    body: bytes | None = None
    ranges: bool = True
    if_range: bool = True
    etag: str = '"first"'
    shift: int = 0
    longest: int | None = None
    compresses: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    """Serve `files` (path -> body); GETs use up `answers` in order, then repeat `otherwise`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.otherwise = Answer()
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str]:
        """Return the Range header of every GET so far, "" if it had none."""
        return [range_ for method, _, range_ in self.requests if method == "GET"]


@contextmanager
def file_server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(self.server.otherwise, send_body=False)

    def do_GET(self) -> None:
        answers = self.server.answers
        self._answer(answers.pop(0) if answers else self.server.otherwise, send_body=True)

    def _answer(self, answer: Answer, send_body: bool) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.command, self.path, asked))
        if answer.status != 200 or self.path not in self.server.files:
            self.send_error(answer.status if answer.status != 200 else 404)
            return
        whole = self.server.files[self.path] if answer.body is None else answer.body
        start = self._first_byte(answer, asked)
        if start is not None and start >= len(whole):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.end_headers()
            return
        body = whole if start is None else whole[start:][: answer.longest]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(whole)}")
        compressed = answer.compresses and "gzip" in self.headers.get("Accept-Encoding", "")
        body = gzip.compress(body) if compressed else body
        length = str(len(body)) if answer.announced is None else answer.announced
        encoding = "gzip" if compressed else ""
        headers = {
            "Content-Length": length,
            "ETag": answer.etag,
            "Content-Encoding": encoding,
            **answer.headers,
        }
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body[: answer.stop_after])

    def _first_byte(self, answer: Answer, asked: str) -> int | None:
        """Return the first byte of a range to send, None for the whole file."""
        valid = not answer.if_range or self.headers.get("If-Range", answer.etag) == answer.etag
        if not (asked and answer.ranges and valid):
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-")) + answer.shift

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
