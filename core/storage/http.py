"""Resumable HTTP download of one file.

The bytes are appended to `NAME.part`. `NAME.part.tag` holds the validator (ETag or date) of the remote file:
a later run sends it as If-Range, so that parts of two versions of a file are never joined (RFC 9110, section
13.1.5).
"""

import errno
import logging
import shutil
import time
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

ATTEMPTS = 5  # consecutive requests without new bytes before giving up
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
CHUNK = 1 << 16  # bytes

log = logging.getLogger(__name__)


class TransferError(Exception):
    """A download failed; the message is one sentence for the user."""


class _BrokenError(Exception):
    """A request ended early or was rejected temporarily; a retry may succeed."""


_BREAKS = (
    _BrokenError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


def receive(address: str, part: Path, size: int | None) -> None:
    """Download an address to `part`, retrying after every break.

    size: length of the file in bytes, None if unknown. Raises TransferError if the server has no such file,
    announces no length or one different from size, or sends nothing new in ATTEMPTS consecutive requests;
    OSError if the disk fails or is too small.
    """
    failures = 0
    while True:
        before = _length(part)
        try:
            _continue(address, part, size)
            return
        except _BREAKS as error:
            failures = 0 if _length(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise TransferError(
                    f"Download failed: {ATTEMPTS} consecutive attempts for {address} gave nothing new "
                    f"({reason(error)}). {part} keeps {_length(part):,} bytes; run the same command later to "
                    "continue, or name another --mirror."
                ) from error
            time.sleep(PAUSE * 2 ** max(0, failures - 1))
        except requests.RequestException as error:
            raise TransferError(f"{address} is not a valid address: {error}.") from error


def finish(part: Path, destination: Path) -> None:
    """Rename a complete part to its destination."""
    part.replace(destination)
    _tag(part).unlink(missing_ok=True)


def discard(part: Path) -> None:
    """Delete a part and its tag."""
    _tag(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """Return the message of the innermost cause; the outer errors only name layers of the library."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _continue(address: str, part: Path, size: int | None) -> None:
    """Request the missing bytes of `part` once; return if it is complete, else raise one of _BREAKS."""
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
        _raise_for_status(response, address)
        resumed = _resumes(response, offset)
        if offset and not resumed:
            log.info("%s cannot be resumed or has changed: starting from the first byte.", address)
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


def _raise_for_status(response: requests.Response, address: str) -> None:
    """Raise _BrokenError for a status that a retry may fix, TransferError for other errors."""
    status = f"{response.status_code} {response.reason}"
    if response.status_code in (408, 425, 429) or response.status_code >= 500:
        raise _BrokenError(f"the server answers {status}")
    if response.status_code not in (200, 206):
        raise TransferError(
            f"Download failed: HTTP {status} for {address}. Check whether the file has moved, or name "
            "another --mirror."
        )


def _resumes(response: requests.Response, offset: int) -> bool:
    if response.status_code != requests.codes.partial_content:
        return False
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {offset}-"):
        raise _BrokenError(f"the server sent Content-Range {content_range!r} for the bytes from {offset:,}")
    return True


def _total(response: requests.Response, start: int, size: int | None, address: str) -> int:
    """Return the announced length of the whole file in bytes; raise TransferError if it is not `size`."""
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
            f"{address} is sent without its length, so an incomplete file cannot be detected. Name another "
            "--mirror."
        )
    if size is not None and total != size:
        raise TransferError(
            f"The server announces {total:,} bytes for {address}; expected {size:,}. The file has changed or "
            "the server is wrong; name another --mirror."
        )
    return total


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


def _begin(part: Path, response: requests.Response) -> None:
    """Empty `part` and store the validator for If-Range: a strong ETag, else the date."""
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
