"""Receive the bytes of an address in a file, continuing after every break.

What arrives is appended to `NAME.part`; beside it `NAME.part.tag` holds the validator (ETag or date) of the
file it is a part of, so that a later run continues it with If-Range and never joins halves of two files
(RFC 9110, section 13.1.5).
"""

import errno
import logging
import shutil
import time
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

ATTEMPTS = 5  # requests in a row that bring nothing new before giving up
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = (10, 60)  # seconds to connect, and between two arrivals
CHUNK = 1 << 16  # bytes

log = logging.getLogger(__name__)


class TransferError(Exception):
    """A file could not be had whole; the message is one sentence for the user."""


class _BrokenError(Exception):
    """One request ended early or was refused for now: another may succeed."""


_BREAKS = (
    _BrokenError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


def receive(address: str, part: Path, size: int | None) -> None:
    """Ask until part has every byte; size is the length of the file in bytes, None where unknown.

    Raises TransferError when the server has no such file, announces another length than size or none, or when
    ATTEMPTS requests in a row brought nothing; OSError when the disk fails or is too small.
    """
    fruitless = 0
    while True:
        before = _length(part)
        try:
            _continue(address, part, size)
            return
        except _BREAKS as error:
            fruitless = 0 if _length(part) > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise TransferError(
                    f"{address} could not be fetched, {ATTEMPTS} attempts in a row brought nothing "
                    f"({reason(error)}): {_length(part):,} bytes are kept in {part}; "
                    "run the same command later to continue, or name another --mirror."
                ) from error
            time.sleep(PAUSE * 2 ** max(0, fruitless - 1))
        except requests.RequestException as error:
            raise TransferError(f"{address} cannot be asked for: {error}.") from error


def finish(part: Path, destination: Path) -> None:
    """Give a whole part its final name."""
    part.replace(destination)
    _tag(part).unlink(missing_ok=True)


def discard(part: Path) -> None:
    """Forget what has arrived."""
    _tag(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """The innermost cause, which names the trouble; the outer ones name only the library's layers."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _continue(address: str, part: Path, size: int | None) -> None:
    """One request for the bytes that part lacks. Returns when it lacks none, else raises one of _BREAKS."""
    tag = _tag(part)
    offset = _length(part) if tag.exists() else 0
    if offset and offset == size:
        return
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": tag.read_text()}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            _check_nothing_left(response, part, offset)
            return
        _refuse(response, address)
        resumed = _resumes(response, offset)
        if offset and not resumed:
            log.info("%s cannot be continued or has changed: starting again from its first byte.", address)
        start = offset if resumed else 0
        total = _total(response, start, size, address)
        _need_space(part.parent, total - _length(part))
        if not resumed:
            _begin(part, response)
        _append(response, part, start, total)
    if _length(part) != total:
        raise _BrokenError(f"the server stopped after {_length(part):,} of {total:,} bytes")


def _check_nothing_left(response: requests.Response, part: Path, offset: int) -> None:
    if response.headers.get("Content-Range", "") == f"bytes */{offset}":
        return
    discard(part)
    raise _BrokenError(f"the server has no byte {offset:,}")


def _refuse(response: requests.Response, address: str) -> None:
    """Raise unless bytes are coming: _BrokenError where asking again may help, else TransferError."""
    status = f"{response.status_code} {response.reason}"
    if response.status_code in (408, 425, 429) or response.status_code >= 500:
        raise _BrokenError(f"the server answers {status}")
    if response.status_code not in (200, 206):
        raise TransferError(
            f"{address} is not to be had, the server answers {status}: "
            "look whether the file has moved, or name another --mirror."
        )


def _resumes(response: requests.Response, offset: int) -> bool:
    if response.status_code != requests.codes.partial_content:
        return False
    answered = response.headers.get("Content-Range", "")
    if not answered.startswith(f"bytes {offset}-"):
        raise _BrokenError(f"the server answers {answered!r} when asked for the bytes from {offset:,} on")
    return True


def _total(response: requests.Response, start: int, size: int | None, address: str) -> int:
    """Length of the whole file in bytes: as announced, which has to be size where that is known."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    rest = response.headers.get("Content-Length", "")
    if whole.isdigit():
        total = int(whole)
    elif rest.isdigit():
        total = start + int(rest)
    elif size is not None:
        total = size
    else:
        raise TransferError(
            f"{address} is sent without its length, so a half file could not be told from a whole one: "
            "name another --mirror."
        )
    if size is not None and total != size:
        raise TransferError(
            f"{address} is announced with {total:,} bytes where {size:,} are expected: "
            "the file has changed or the server is wrong; name another --mirror."
        )
    return total


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


def _begin(part: Path, response: requests.Response) -> None:
    """Empty part, then keep what If-Range needs to continue it: a strong ETag, else the date."""
    tag = _tag(part)
    tag.unlink(missing_ok=True)
    part.write_bytes(b"")
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    if validator:
        tag.write_text(validator)


def _append(response: requests.Response, part: Path, start: int, total: int) -> None:
    name = part.name.removesuffix(".part")
    bar = tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None)
    with part.open("ab") as file, bar:
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            file.write(chunk)
            bar.update(len(chunk))


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
