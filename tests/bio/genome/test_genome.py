"""Records are found by name, runs of N are found, and a pack is reused until its source changes."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bio.genome.genome
import core.storage.memory_map
from bio.genome.genome import Genome, open_genome, pack, read_index
from bio.genome.vocabulary import N, decode
from tests.bio.conftest import MakeGenome, random_bases, write_fasta


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    records = {"chr1": random_bases(100, 1), "2": random_bases(70, 2).lower(), "MT": "ACGTNNACGT"}
    return make_genome(records)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("chr1", "chr1"), ("1", "chr1"), ("2", "2"), ("chr2", "2"), ("Chr2", "2"), ("chrMT", "MT")],
)
def test_names_with_and_without_chr_find_each_other(genome: Genome, asked: str, found: str) -> None:
    assert genome.resolve(asked).name == found


def test_absent_name_lists_the_nearest(genome: Genome) -> None:
    with pytest.raises(ValueError, match=r"no chromosome chr12 among the 3 of genome.fa.*names: chr1"):
        genome.resolve("chr12")


def test_exact_name_wins_and_otherwise_ambiguity_is_an_error(make_genome: MakeGenome) -> None:
    genome = make_genome({"chr1": "ACGT", "1": "AC", "CHR2": "ACG", "2": "A"})
    assert (genome.resolve("chr1").length, genome.resolve("1").length) == (4, 2)
    with pytest.raises(ValueError, match=r"Chromosome chr2 of genome\.fa is ambiguous: write CHR2 or 2"):
        genome.resolve("chr2")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5, 5, "inverted, empty or negative"),
        (9, 5, "inverted, empty or negative"),
        (-1, 5, "inverted, empty or negative"),
        (0, 101, "ends past the end of chr1, which has 100 bases here. It may come from another assembly"),
    ],
)
def test_bad_interval_is_rejected(genome: Genome, start: int, end: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        genome.span("1", start, end)


def test_tokens_and_repeats_of_an_interval(genome: Genome) -> None:
    assert decode(genome.tokens("2", 3, 9)) == random_bases(70, 2)[3:9]
    assert genome.repeats("2").all()
    assert not genome.repeats("chr1").any()


def test_locate_undoes_span(genome: Genome) -> None:
    for record in genome.records.values():
        for base in (0, record.length - 1):
            assert genome.locate(genome.span(record.name, base, base + 1)[0]) == (record.name, base)


def test_copy_in_another_process_opens_the_same_map(genome: Genome) -> None:
    message = pickle.dumps(genome)
    assert len(message) < 1000
    assert np.array_equal(pickle.loads(message).bases, genome.bases)


@given(text=st.text("ACNn", min_size=1, max_size=60), scan=st.integers(1, 70))
@settings(max_examples=40)
def test_unknown_is_exactly_the_n(make_genome: MakeGenome, text: str, scan: int) -> None:
    genome = make_genome({"a": text, "b": "ANA"})
    expected = (genome.bases & 0x7F) == N
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bio.genome.genome, "SCAN_BASES", scan)
        runs = genome.unknown
    found = np.zeros(genome.bases.size, bool)
    for start, end in runs:
        found[start:end] = True
    assert np.array_equal(found, expected)
    assert (runs[1:, 0] > runs[:-1, 1]).all()


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "x.fa", {"a": random_bases(100, 1), "b": random_bases(50, 2)})


def test_pack_is_in_the_folder_of_its_source_and_names_it(fasta: Path) -> None:
    index = pack(fasta)
    content = read_index(index)
    assert index == fasta.parent / "x.fa.pack.json"
    assert content["source"]["name"] == "x.fa"
    assert [(record["name"], record["length"]) for record in content["records"]] == [("a", 100), ("b", 50)]
    assert {path.name for path in fasta.parent.iterdir()} == {"x.fa", "x.fa.pack.json", content["flat"]}


def test_separators_surround_all_records(fasta: Path) -> None:
    genome = open_genome(fasta)
    inside = np.zeros(genome.bases.size, bool)
    for start, end in genome.record_spans:
        inside[start:end] = True
    assert genome.bases[~inside].tolist() == [N] * 3
    assert not inside[[0, -1]].any()


def test_second_opening_reuses_the_pack(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = pack(fasta)
    before = index.stat().st_mtime_ns
    monkeypatch.setattr(bio.genome.genome, "_write_pack", lambda *_: pytest.fail("packed again"))
    assert pack(fasta) == index
    os.utime(fasta)
    assert pack(fasta) == index
    assert index.stat().st_mtime_ns == before


def test_changed_source_is_packed_again(fasta: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_genome(fasta)
    for number, change in enumerate((random_bases(100, 7), random_bases(80, 8), random_bases(80, 9))):
        write_fasta(fasta, {"a": change})
        os.utime(fasta, (number, number))
        assert decode(open_genome(fasta).tokens("a")) == change
        assert "x.fa has changed since" in caplog.text
        caplog.clear()
    assert len(list(fasta.parent.glob("*.u8"))) == 1


def _cut(index: Path) -> None:
    bases = index.parent / read_index(index)["flat"]
    bases.write_bytes(bases.read_bytes()[:-1])


def _remove(index: Path) -> None:
    (index.parent / read_index(index)["flat"]).unlink()


def _older_version(index: Path) -> None:
    index.write_text(json.dumps(read_index(index) | {"version": 0}))


def _foreign(index: Path) -> None:
    index.write_text('{"some": "other index"}')


def _garbage(index: Path) -> None:
    index.write_bytes(b"\xff\xfe{")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, "missing or cut short"),
        (_remove, "missing or cut short"),
        (_older_version, "is no index of a packed genome"),
        (_foreign, "is no index of a packed genome"),
        (_garbage, "is not the index of a pack"),
    ],
)
def test_damaged_pack_is_reported_and_made_again(  # type: ignore[no-untyped-def]
    fasta: Path, caplog: pytest.LogCaptureFixture, harm, message: str
) -> None:
    expected = open_genome(fasta).bases.tobytes()
    harm(pack(fasta))
    assert open_genome(fasta).bases.tobytes() == expected
    assert message in caplog.text


def test_pack_of_another_fasta_of_that_name_is_not_used(fasta: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_fasta(other / "x.fa", {"a": random_bases(100, 3), "b": random_bases(50, 4)})
    cache = tmp_path / "cache"
    first, second = open_genome(fasta, cache), open_genome(other / "x.fa", cache)
    assert first.bases.tobytes() != second.bases.tobytes()
    assert first.index != second.index
    assert open_genome(fasta, cache).bases.tobytes() == first.bases.tobytes()


def test_read_only_folder_falls_back_to_the_user_cache(
    fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.storage.memory_map.os, "access", lambda *_: False)
    monkeypatch.setattr(core.storage.memory_map, "user_cache", lambda: tmp_path / "user" / "cache")
    index = pack(fasta)
    assert index.parent == tmp_path / "user" / "cache"
    assert [path.name for path in fasta.parent.iterdir() if path.is_file()] == ["x.fa"]


def test_unwritable_cache_is_one_sentence(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"could not be packed into .*allow writing there"):
        pack(fasta, tmp_path / "file" / "cache")


def test_full_disk_leaves_nothing(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bio.genome.genome, "read_bases", full)
    with pytest.raises(OSError, match="No space left on device"):
        pack(fasta)
    assert [path.name for path in fasta.parent.iterdir()] == ["x.fa"]
