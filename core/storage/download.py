"""Verified downloads from a table of sources.

A file gets its final name when it is complete and verified; until then it is `NAME.part` (core.storage.http).
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

from core.storage.http import TIMEOUT, TransferError, discard, finish, reason, receive

__all__ = ["Source", "TransferError", "add_arguments", "as_command", "disk_failures", "fetch", "read_sources"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Address of a file and the data that verifies it.

    address: http(s) address. file: path under the data folder. size: bytes, None if unknown.
    checksum: "md5:<hex>" or "sha256:<hex>", None if unknown.
    checksum_list: address of a list in the format of md5sum, used if there is no checksum.
    """

    address: str
    file: str
    size: int | None = None
    checksum: str | None = None
    checksum_list: str | None = None


def read_sources(table: Path) -> dict[str, Source]:
    """Read a YAML table of sources: name -> fields of Source."""
    entries = OmegaConf.load(table)
    return {str(name): Source(**entry) for name, entry in entries.items()}


def fetch(source: Source, folder: Path, mirror: str | None = None) -> Path:
    """Download a source into a folder and return its path; a verified file is not downloaded again.

    mirror: scheme, host and path prefix that replace the scheme and host of the address.
    Raises TransferError. `source.file` exists only if it is verified, whatever the failure.
    """
    destination = folder / source.file
    address = _through(mirror, source.address)
    part = destination.with_name(destination.name + ".part")
    with disk_failures(destination.parent):
        if _verified_already(destination, source):
            log.info("%s exists and is verified.", destination)
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
    """Convert an OSError of the body to a TransferError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransferError(
                f"The disk of {folder} is full. Free some space and run the same command again to continue, "
                "or choose another folder with --folder."
            ) from error
        raise TransferError(
            f"The folder {folder} cannot be used ({error.strerror or error}). Choose another with --folder."
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every download command."""
    parser.add_argument(
        "--folder", type=Path, default=Path("data"), help="destination folder (default: data)"
    )
    parser.add_argument(
        "--mirror", metavar="https://...", help="address that replaces https://HOST of every source"
    )


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """Run the body of a download command: log to stderr, exit with status 1 on failure."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        yield
    except TransferError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run the same command again to continue.")


def _through(mirror: str | None, address: str) -> str:
    if mirror is None:
        return address
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise TransferError(f"The mirror is {mirror!r}; it must begin with http:// or https://.")
    parts = urlsplit(address)
    return mirror.rstrip("/") + address.removeprefix(f"{parts.scheme}://{parts.netloc}")


def _published_checksum(source: Source, mirror: str | None) -> str | None:
    """Return the checksum that the server publishes: in a list, or as x-goog-hash of Google Cloud Storage."""
    if source.checksum_list:
        name = source.address.rpartition("/")[2]
        return _listed_checksum(_through(mirror, source.checksum_list), name)
    response = _ask("HEAD", _through(mirror, source.address))
    match = re.search(r"\bmd5=([^,\s]+)", response.headers.get("x-goog-hash", ""))
    return f"md5:{base64.b64decode(match[1]).hex()}" if match and response.ok else None


def _listed_checksum(address: str, name: str) -> str:
    response = _ask("GET", address)
    if not response.ok:
        raise TransferError(
            f"{name} cannot be verified: HTTP {response.status_code} {response.reason} for its list of "
            f"checksums, {address}."
        )
    match = re.search(rf"^([0-9a-f]{{32}})\s+(?:\S*/)?{re.escape(name)}$", response.text, re.MULTILINE)
    if not match:
        raise TransferError(f"{name} cannot be verified: {address} does not list it.")
    return f"md5:{match[1]}"


def _ask(method: str, address: str) -> requests.Response:
    try:
        return requests.request(method, address, timeout=TIMEOUT, allow_redirects=True)
    except requests.RequestException as error:
        raise TransferError(
            f"{address}, which holds the checksum, cannot be read ({reason(error)}). Run the same command "
            "again later."
        ) from error


def _verify(part: Path, checksum: str | None, address: str) -> None:
    if checksum is None:
        return
    got = _digest(part, checksum)
    if got != checksum:
        discard(part)
        raise TransferError(
            f"The content of {address} is wrong: expected {checksum}, got {got}. It has been deleted. Run "
            "the same command again, or name another --mirror."
        )


def _record(part: Path, destination: Path, checksum: str | None) -> None:
    """Write NAME.sha256 for later runs and other machines, in the format of `sha256sum -c`."""
    digest = _digest(part, "sha256:").removeprefix("sha256:")
    _record_of(destination).write_text(f"{digest}  {destination.name}\n")
    if checksum is None:
        log.warning(
            "There is no published checksum of %s. Its length is as announced; its sha256, %s, is written to "
            "%s.",
            destination.name,
            digest,
            _record_of(destination),
        )


def _verified_already(destination: Path, source: Source) -> bool:
    if not destination.is_file():
        return False
    expected = source.checksum
    if expected is None and _record_of(destination).is_file():
        expected = f"sha256:{_record_of(destination).read_text().split()[0]}"
    if expected is None:
        log.warning("%s exists but has no checksum: downloading it again.", destination)
        return False
    got = _digest(destination, expected)
    if got != expected:
        log.warning("%s exists, but has %s instead of %s: downloading it again.", destination, got, expected)
    return got == expected


def _digest(path: Path, checksum: str) -> str:
    """Return the checksum of a file, by the algorithm of `checksum`."""
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _record_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".sha256")
