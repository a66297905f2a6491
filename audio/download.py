"""Download the spoken digits: `python -m audio.download sc09` fetches and unpacks Google Speech Commands.

SC09 consists of the ten digit folders of Speech Commands, with the official split in the archive.
"""

import argparse
import gzip
import logging
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from core.storage.download import TransferError, add_arguments, as_command, disk_failures, fetch, read_sources

TABLE = Path(__file__).with_name("sources.yaml")

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Download and unpack; exit with status 1 and one sentence if the archive is incomplete."""
    table = read_sources(TABLE)
    options = _parser([name.partition("/")[2] for name in table]).parse_args(arguments)
    with as_command():
        source = table[f"{options.name}/{options.version}"]
        folder = options.folder / source.file.removesuffix(".tar.gz")
        if not folder.exists():
            unpack(fetch(source, options.folder, options.mirror), folder)
        log.info("%s holds the clips.", folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar.gz of plain files into a folder, which appears when all files are complete.

    Raises TransferError for a damaged archive, or for a member that is not a plain file or folder or lies
    outside the archive's own tree; no files are left then.
    """
    part = folder.with_name(folder.name + ".part")
    with disk_failures(folder.parent):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with tarfile.open(archive, "r:gz") as members:
                for member in tqdm(members, desc=f"unpacking {archive.name}", unit=" files", disable=None):
                    _check(member, archive)
                    members.extract(member, part, filter="data")
            part.rename(folder)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise TransferError(
                f"{archive} is damaged ({error}). Delete it and download it again."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _check(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts
    if outside or not (member.isfile() or member.isdir()):
        raise TransferError(
            f"{archive} holds {member.name!r}, which "
            + ("would be written outside its folder" if outside else "is neither a file nor a folder")
            + ". It is not the expected archive, and no files were kept. Delete it."
        )


def _parser(versions: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m audio.download", description=__doc__)
    parser.add_argument("name", choices=["sc09"], help="data set")
    parser.add_argument(
        "--version", choices=versions, default="0.02", help="version of Speech Commands (default: 0.02)"
    )
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
