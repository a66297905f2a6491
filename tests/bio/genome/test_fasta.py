"""Every kind of FASTA file is read as pyfaidx reads it; every bad one is an error of one sentence."""

import gzip
import struct
import zlib
from pathlib import Path

import pyfaidx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bio.genome.fasta
from bio.genome.genome import Genome, open_genome
from bio.genome.vocabulary import ENCODE, decode
from tests.bio.conftest import MakeGenome, random_bases, write_fasta

CODES = "ACGTURYSWKMBDHVNacgturyswkmbdhvn"
records_strategy = st.dictionaries(
    st.text("abcXYZ019._|:-", min_size=1, max_size=8),
    st.text(CODES, min_size=1, max_size=200),
    min_size=1,
    max_size=4,
)


def as_bgzip(text: bytes, block: int = 50) -> bytes:
    """Compress as bgzip does: gzip members with their size, then an empty member."""
    members = [text[start : start + block] for start in range(0, len(text), block)] + [b""]
    out = b""
    for data in members:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = deflate.compress(data) + deflate.flush()
        head = bytes.fromhex("1f8b08040000000000ff0600424302") + b"\x00" + struct.pack("<H", len(body) + 25)
        out += head + body + struct.pack("<II", zlib.crc32(data), len(data))
    return out


def texts(genome: Genome) -> dict[str, str]:
    """Return the records of a genome, with the soft mask as lower case."""
    return {
        name: "".join(
            base.lower() if masked else base
            for base, masked in zip(decode(genome.tokens(name)), genome.repeats(name), strict=True)
        )
        for name in genome.records
    }


def reference(path: Path) -> dict[str, str]:
    """Return the records read by pyfaidx, with ambiguity codes as N and U as T."""
    table = str.maketrans("URYSWKMBDHVuryswkmbdhv", "TNNNNNNNNNNtnnnnnnnnnn")
    return {record.name: str(record).translate(table) for record in pyfaidx.Fasta(str(path))}


@given(records=records_strategy, width=st.integers(1, 80))
@settings(max_examples=40)
def test_pack_holds_what_pyfaidx_reads(
    tmp_path_factory: pytest.TempPathFactory, records: dict[str, str], width: int
) -> None:
    fasta = write_fasta(tmp_path_factory.mktemp("fasta") / "x.fa", records, width)
    assert texts(open_genome(fasta)) == reference(fasta)


@pytest.mark.parametrize("read_bases", [1, 7, 60, 61, 1000])
def test_reading_in_pieces_changes_nothing(
    make_genome: MakeGenome, monkeypatch: pytest.MonkeyPatch, read_bases: int
) -> None:
    monkeypatch.setattr(bio.genome.fasta, "READ_BASES", read_bases)
    records = {"a": random_bases(301, 1), "b": random_bases(60, 2), "c": "A"}
    assert texts(make_genome(records)) == records


@pytest.mark.parametrize(("ending", "blank"), [("\n", ""), ("\n", "\n"), ("\r\n", "")])
@pytest.mark.parametrize("tail", ["", "\n"])
def test_line_ends_blank_lines_and_descriptions_do_not_matter(
    tmp_path: Path, ending: str, blank: str, tail: str
) -> None:
    lines = [">one and its description", "ACGT", f"AC{blank}", ">two", "gg", "tt"]
    (tmp_path / "x.fa").write_bytes((ending.join(lines) + tail).encode())
    assert texts(open_genome(tmp_path / "x.fa")) == {"one": "ACGTAC", "two": "ggtt"}


@pytest.mark.parametrize("suffix", [".fa.gz", ".fa.bgz", ".fa"])
@pytest.mark.parametrize("compress", [gzip.compress, as_bgzip])
def test_compressed_equals_plain(tmp_path: Path, compress, suffix: str) -> None:  # type: ignore[no-untyped-def]
    records = {"a": random_bases(500, 1), "b": random_bases(100, 2).lower()}
    plain = write_fasta(tmp_path / "plain.fasta", records)
    packed = tmp_path / f"x{suffix}"
    packed.write_bytes(compress(plain.read_bytes()))
    assert texts(open_genome(packed)) == texts(open_genome(plain)) == records


def _bad_files() -> dict[str, tuple[str, bytes, str]]:
    good = f">a\n{random_bases(300)}\n".encode()
    flipped = bytearray(gzip.compress(good))
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "empty": ("x.fa", b"", "is empty. Download it again"),
        "empty once decompressed": ("x.fa.gz", gzip.compress(b""), "is empty once decompressed"),
        "truncated gzip": ("x.fa.gz", gzip.compress(good)[:-20], "is truncated"),
        "truncated bgzip, in a block": ("x.fa.gz", as_bgzip(good)[:-40], "is truncated"),
        "truncated bgzip, between blocks": ("x.fa.gz", as_bgzip(good)[:-28], "bgzip end block is missing"),
        "damaged gzip": ("x.fa.gz", bytes(flipped), "is damaged gzip data|is truncated"),
        "gzip by name alone": ("x.fa.gz", good, "name of a compressed file but is not gzip data"),
        "binary": ("x.fa", b"BZh9\xff\xfe\x00\x01", "is not text, so it is not a FASTA file"),
        "no header": ("x.fa", b"ACGT\nACGT\n", "not a FASTA file .* at line 1"),
        "web page": ("x.fa", b"<!DOCTYPE html>\n<html>\n", "not a FASTA file .* at line 1"),
        "blank": ("x.fa", b"\n\n", "not a FASTA file"),
        "nameless record": ("x.fa", b">\nACGT\n", "not a FASTA file"),
        "uneven lines": ("x.fa", b">a\nACGT\nAC\nACGT\n", "not a FASTA file .* >a at line 3"),
        "duplicate names": ("x.fa", b">a x\nAC\n>b\nAC\n>a x\nGT\n", 'two records of one name .*"a x"'),
        "record without bases": ("x.fa", b">a\n>b\nACGT\n", "record a has no bases"),
        "last record without bases": ("x.fa", b">a\nACGT\n>b\n", "record b has no bases"),
        "protein": ("x.fa", b">a\nACGT\n>p\nACGT\nMKVL\n", "record p, line 5: 'L' is not a nucleotide code"),
        "gap": ("x.fa", b">a\nACGT\nA-GT\n", "record a, line 3: '-' is not a nucleotide code"),
        "letters beyond ASCII": ("x.fa", ">a\nAC\u00e9GT\n".encode(), "record a, line 2"),
    }


@pytest.mark.parametrize("case", _bad_files())
def test_bad_file_is_rejected_and_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    name, content, message = _bad_files()[case]
    fasta = tmp_path / name
    fasta.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        open_genome(fasta)
    assert str(fasta) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("start", ["", "; a comment\n", "\n"])
@pytest.mark.parametrize(("ending", "blank"), [("\n", ""), ("\n", "\n"), ("\r\n", "")])
def test_records_that_share_their_first_word_go_by_their_whole_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: str, ending: str, blank: str
) -> None:
    lines = [">a first one", "ACGT", f"AC{blank}", ">b", f"GG{blank}", ">a second > one", "TT", ""]
    (tmp_path / "x.fa").write_bytes((start + ending.join(lines)).encode())
    assert texts(open_genome(tmp_path / "x.fa")) == {
        "a first one": "ACGTAC",
        "b": "GG",
        "a second > one": "TT",
    }
    assert "share their first word" in caplog.text


@given(width=st.integers(1, 70), length=st.integers(1, 300), data=st.data())
@settings(max_examples=30)
def test_bad_character_is_found_on_its_line(
    tmp_path_factory: pytest.TempPathFactory, width: int, length: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, length - 1))
    bases = random_bases(length)
    fasta = tmp_path_factory.mktemp("fasta") / "x.fa"
    write_fasta(fasta, {"a": "ACGT", "b": f"{bases[:at]}*{bases[at + 1 :]}"}, width)
    line = 1 + next(number for number, text in enumerate(fasta.read_text().split("\n")) if "*" in text)
    with pytest.raises(ValueError, match=rf"record b, line {line}: '\*' is not a nucleotide code"):
        open_genome(fasta)


def test_missing_file_and_folder_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no FASTA file .*absent\.fa: check the path"):
        open_genome(tmp_path / "absent.fa")
    with pytest.raises(ValueError, match="is a folder, not a FASTA file"):
        open_genome(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_encoding_table_knows_every_code() -> None:
    assert {chr(code) for code in range(256) if ENCODE[code] != 0xFF} == set(CODES)
