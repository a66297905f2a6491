"""Fetch a file from where a table says it is: verified, and under its final name only when whole.

Nothing here knows what the file holds. Until it is whole it is `NAME.part` (see core.storage.resume).
"""

import argparse
import base64
import contextlib
import errno
import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from omegaconf import OmegaConf

from core.storage.resume import TIMEOUT, TransferError, discard, finish, reason, receive

__all__ = ["Source", "TransferError", "add_arguments", "as_command", "disk_failures", "fetch", "read_sources"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a file comes from and how it is known to be whole.

    address: http(s) address. file: path under the data folder. size: bytes, None where unknown.
    checksum: "md5:<hex>" or "sha256:<hex>", None where unknown.
    checksum_list: address of a list as md5sum writes it, asked when there is no checksum.
    """

    address: str
    file: str
    size: int | None = None
    checksum: str | None = None
    checksum_list: str | None = None


def read_sources(table: Path) -> dict[str, Source]:
    """Read a YAML table of sources: name -> the fields of Source."""
    entries = OmegaConf.load(table)
    return {str(name): Source(**entry) for name, entry in entries.items()}


def fetch(source: Source, folder: Path, mirror: str | None = None) -> Path:
    """Bring source into folder and return its path; a file that is there and verified is not fetched again.

    mirror: scheme, host and path prefix that stand in for the scheme and host of the address.
    Raises TransferError; whatever the failure, nothing unverified ever stands under `source.file`.
    """
    destination = folder / source.file
    address = _through(mirror, source.address)
    part = destination.with_name(destination.name + ".part")
    with disk_failures(destination.parent):
        if _verified_already(destination, source):
            log.info("%s is there already, complete and verified.", destination)
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        receive(address, part, source.size)
        checksum = source.checksum or _published_checksum(source, mirror)
        _verify(part, checksum, address)
        if source.checksum is None:
            _record(part, destination, checksum)
        finish(part, destination)
    log.info("%s is complete%s.", destination, " and verified" if checksum else "")
    return destination


@contextlib.contextmanager
def disk_failures(folder: Path) -> Iterator[None]:
    """Turn the failures of a disk into a TransferError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransferError(
                f"The disk of {folder} is full: free some space and run the same command again, "
                "which continues where it stopped, or choose another folder with --folder."
            ) from error
        raise TransferError(
            f"The folder {folder} cannot be used ({error.strerror or error}): choose another with --folder."
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every download command has."""
    parser.add_argument(
        "--folder", type=Path, default=Path("data"), help="where the files go (default: data)"
    )
    parser.add_argument(
        "--mirror", metavar="https://...", help="address that stands in for https://HOST of every source"
    )


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """Run the body of a download command: say what happens on stderr, end on a failure with status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        yield
    except TransferError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted: what has arrived is kept, and the same command continues from there.")


def _through(mirror: str | None, address: str) -> str:
    if mirror is None:
        return address
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise TransferError(
            f"The mirror {mirror!r} is not an address: it must begin with http:// or https://."
        )
    parts = urlsplit(address)
    return mirror.rstrip("/") + address.removeprefix(f"{parts.scheme}://{parts.netloc}")


def _published_checksum(source: Source, mirror: str | None) -> str | None:
    """The checksum that the server itself gives: in a list, or in Google Cloud Storage's x-goog-hash."""
    if source.checksum_list:
        name = source.address.rpartition("/")[2]
        return _listed_checksum(_through(mirror, source.checksum_list), name)
    response = _ask("HEAD", _through(mirror, source.address))
    found = re.search(r"\bmd5=([^,\s]+)", response.headers.get("x-goog-hash", ""))
    return f"md5:{base64.b64decode(found[1]).hex()}" if found and response.ok else None


def _listed_checksum(address: str, name: str) -> str:
    response = _ask("GET", address)
    if not response.ok:
        raise TransferError(
            f"{name} cannot be verified: the server answers {response.status_code} {response.reason} "
            f"when asked for {address}, which lists its checksum."
        )
    listed = re.search(rf"^([0-9a-f]{{32}})\s+(?:\S*/)?{re.escape(name)}$", response.text, re.MULTILINE)
    if not listed:
        raise TransferError(f"{name} cannot be verified: {address} does not list it.")
    return f"md5:{listed[1]}"


def _ask(method: str, address: str) -> requests.Response:
    try:
        return requests.request(method, address, timeout=TIMEOUT, allow_redirects=True)
    except requests.RequestException as error:
        raise TransferError(
            f"{address}, which verifies the file, cannot be read ({reason(error)}): "
            "run the same command again later."
        ) from error


def _verify(part: Path, checksum: str | None, address: str) -> None:
    if checksum is None:
        return
    got = _digest(part, checksum)
    if got != checksum:
        discard(part)
        raise TransferError(
            f"{address} has arrived with another content: expected {checksum}, got {got}; "
            "it has been deleted, so run the same command again or name another --mirror."
        )


def _record(part: Path, destination: Path, checksum: str | None) -> None:
    """Write the sha256 beside the file, for later runs and for other machines (`sha256sum -c` reads it)."""
    seen = _digest(part, "sha256:").removeprefix("sha256:")
    _record_of(destination).write_text(f"{seen}  {destination.name}\n")
    if checksum is None:
        log.warning(
            "Nobody publishes a checksum of %s: its length is what the server announced, and its sha256 "
            "as it arrived, %s, is recorded in %s.",
            destination.name,
            seen,
            _record_of(destination),
        )


def _verified_already(destination: Path, source: Source) -> bool:
    if not destination.is_file():
        return False
    expected = source.checksum
    if expected is None and _record_of(destination).is_file():
        expected = f"sha256:{_record_of(destination).read_text().split()[0]}"
    if expected is None:
        log.warning("%s is there, but nothing tells whether it is whole: fetching it again.", destination)
        return False
    got = _digest(destination, expected)
    if got != expected:
        log.warning("%s is there, but it is %s instead of %s: fetching it again.", destination, got, expected)
    return got == expected


def _digest(path: Path, checksum: str) -> str:
    """The checksum of a file, by the algorithm of the checksum that it is to be compared with."""
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _record_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".sha256")
