"""Records written in chunks, in any order, equal records written at once."""

from pathlib import Path

import numpy as np
import pyfaidx
import pytest

from bio.genome.fasta_writer import FastaWriter, wrap_bases


def drawn(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.mark.parametrize("length", [1, 59, 60, 61, 120, 200])
@pytest.mark.parametrize("piece", [1, 7, 60, 64])
def test_pieces_are_the_whole(length: int, piece: int, tmp_path: Path) -> None:
    records = [drawn(length, seed) for seed in range(3)]
    with FastaWriter(tmp_path / "x.fa", length, width=10) as writer:
        for position in range(0, length, piece):
            for number, bases in enumerate(records):
                writer.write_bases(number, position, bases[position : position + piece])
        for number in (2, 0, 1):
            writer.write_header(number, f">r{number} x")
    lines = (tmp_path / "x.fa").read_text().splitlines()
    assert [line.rstrip() for line in lines if line.startswith(">")] == [">r0 x", ">r1 x", ">r2 x"]
    assert {len(line) for line in lines if not line.startswith(">")} <= {60, length % 60 or 60}
    read = pyfaidx.Fasta(str(tmp_path / "x.fa"), as_raw=True)
    assert [record[:] for record in read] == records


def test_a_file_can_be_gone_on_with(tmp_path: Path) -> None:
    bases = drawn(100)
    with FastaWriter(tmp_path / "x.fa", 100, width=4) as writer:
        writer.write_bases(0, 0, bases[:70])
        writer.flush()
        before = (tmp_path / "x.fa").read_bytes()
    with FastaWriter(tmp_path / "x.fa", 100, width=4, keep=True) as writer:
        writer.write_bases(0, 65, bases[65:])
        writer.write_header(0, ">r")
    after = (tmp_path / "x.fa").read_bytes()
    assert after[4 : len(before)] == before[4:]
    assert after.decode() == f">r  \n{bases[:60]}\n{bases[60:]}\n"


def test_a_header_has_its_width(tmp_path: Path) -> None:
    with (
        FastaWriter(tmp_path / "x.fa", 5, width=3) as writer,
        pytest.raises(ValueError, match="wider than 3"),
    ):
        writer.write_header(0, ">abc")


def test_pieces_that_follow_each_other_make_lines() -> None:
    bases = drawn(130)
    text = "".join(wrap_bases(bases[start : start + 50], start) for start in (0, 50, 100))
    assert text == f"\n{bases[:60]}\n{bases[60:120]}\n{bases[120:]}"
