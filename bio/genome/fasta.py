"""FASTA files, plain or compressed with gzip or bgzip, read through pyfaidx.

pyfaidx needs a seekable file, so a compressed file is first decompressed into a scratch folder. The index
goes there too, so a FASTA in a read-only folder can be read. A record's name is the first word of its header
line, or the whole line if two records share their first word.
"""

import gzip
import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyfaidx

from bio.genome.vocabulary import ENCODE, INVALID, Bytes

GZIP_MAGIC = b"\x1f\x8b"
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
COMPRESSED_SUFFIXES = (".gz", ".bgz", ".bz2", ".zip")
READ_BASES = 1 << 24

logger = logging.getLogger(__name__)


def check_fasta(path: Path) -> None:
    """Raise FileNotFoundError if the file is missing, ValueError if it is a folder or empty."""
    if not path.exists():
        raise FileNotFoundError(f"There is no FASTA file {path}: check the path.")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, not a FASTA file. Give one file in it.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty. Download it again, or give another FASTA file.")


@contextmanager
def open_fasta(path: Path, scratch: Path) -> Iterator[pyfaidx.Faidx]:
    """Yield the indexed FASTA file; `scratch` is a folder for the index and the decompressed text.

    Raises ValueError for a truncated file, a file that is not FASTA, uneven line lengths, a duplicate record
    and an empty record.
    """
    text = _decompress(path, scratch / "decompressed.fa") if _is_gzip(path) else path
    if text.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise ValueError(
            f"{path} has the name of a compressed file but is not gzip data. Download it again, or rename it."
        )
    with _index(path, text, scratch / "index.fai") as faidx:
        for name, entry in faidx.index.items():
            if not entry.rlen:
                raise ValueError(f"{path}: record {name} has no bases. Remove it, or download again.")
        yield faidx


def read_bases(path: Path, faidx: pyfaidx.Faidx, name: str) -> Iterator[Bytes]:
    """Yield the packed bytes of one record, in chunks of at most READ_BASES.

    Raises ValueError with the record, the line and the character of the first invalid nucleotide code.
    """
    length = faidx.index[name].rlen
    for start in range(0, length, READ_BASES):
        stop = min(start + READ_BASES, length)
        text = faidx.fetch(name, start + 1, stop)
        packed = ENCODE[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
        if (bad := np.flatnonzero(packed == INVALID)).size:
            position = start + int(bad[0])
            line = _line_number(faidx, name, position)
            raise ValueError(
                f"{path}, record {name}, line {line}: {text[bad[0]]!r} is not a nucleotide code. The file "
                "must hold DNA in A, C, G, T, U, N and the IUPAC codes, without gaps."
            )
        if packed.size != stop - start:
            raise ValueError(f"{path} changed while record {name} was read. Start again.")
        yield packed


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _decompress(path: Path, text: Path) -> Path:
    if _lacks_bgzip_end(path):
        raise ValueError(f"{path} is truncated (its bgzip end block is missing). Download it again.")
    try:
        with gzip.open(path) as source, text.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except EOFError as error:
        raise ValueError(f"{path} is truncated (its gzip data ends too early). Download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged gzip data ({error}). Download it again.") from error
    if not text.stat().st_size:
        raise ValueError(f"{path} is empty once decompressed. Download it again, or give another FASTA file.")
    return text


def _lacks_bgzip_end(path: Path) -> bool:
    """Return True for a bgzip file without its empty end block: cut between two blocks it is still gzip."""
    with path.open("rb") as file:
        is_bgzip = file.read(14)[12:] == b"BC"
        file.seek(-min(path.stat().st_size, len(BGZIP_END)), 2)
        return is_bgzip and file.read() != BGZIP_END


def _index(path: Path, text: Path, index: Path) -> pyfaidx.Faidx:
    open_index = partial(pyfaidx.Faidx, str(text), indexname=str(index), as_raw=True)
    try:
        return open_index()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text, so it is not a FASTA file. Give a plain, gzip or bgzip FASTA."
        ) from error
    except pyfaidx.FastaIndexingError as error:
        reason = str(error).replace(str(text), str(path))
        raise ValueError(
            f"{path} is not a FASTA file that can be indexed: {reason} A record must be a line '>name', then "
            "lines of bases, all of one length except the last."
        ) from error
    except ValueError:
        logger.warning("Records of %s share their first word: whole header lines are their names.", path)
    try:
        return open_index(read_long_names=True, key_function=_header)
    except ValueError as error:
        raise ValueError(f"{path} holds two records of one name ({error}). Rename or remove one.") from error


def _header(text: str) -> str:
    """Return the header line, without ">", from the text that pyfaidx reads between two records."""
    return text.rpartition("\n>")[2].lstrip(">").strip()


def _line_number(faidx: pyfaidx.Faidx, name: str, position: int) -> int:
    """Return the line (from 1) of the base at a 0-based position of a record."""
    entry = faidx.index[name]
    byte = entry.offset + position // entry.lenc * entry.lenb + position % entry.lenc
    with Path(faidx.filename).open("rb") as file:
        chunks = (file.read(min(1 << 20, byte - start)) for start in range(0, byte, 1 << 20))
        return 1 + sum(chunk.count(b"\n") for chunk in chunks)
