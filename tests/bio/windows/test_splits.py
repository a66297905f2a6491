"""The paper's rule gives the paper's counts; the strict rule never shares a base between two splits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.spans import as_spans, overlap, subtract, total
from bio.genome.vocabulary import A, C, G, N, T
from bio.windows.dataset import GenomeDataset, evaluation_batches
from bio.windows.splits import (
    SPLITS,
    Splits,
    paper_windows,
    read_bed_splits,
    separate,
    split_by_fraction,
    split_by_region,
    split_overlap,
    split_windows,
)
from tests.bio.conftest import MakeGenome, random_bases

SEGMENT = 1 << 17
LENGTHS = {"a": 600, "b": 150}
LONGEST = 70
ROOM = {"train": [("a", 0, 600), ("b", 0, 150)], "valid": [("a", 250, 70)], "test": [("a", 320, 70)]}
"""Intervals that leave every split room for a window of LONGEST, whatever is added of `intervals`."""

intervals = st.lists(
    st.tuples(st.sampled_from(sorted(LENGTHS)), st.integers(0, 149), st.integers(1, 60)), max_size=6
)
splits_strategy = st.fixed_dictionaries(dict.fromkeys(SPLITS, intervals)).map(
    lambda drawn: {split: ROOM[split] + rows for split, rows in drawn.items()}
)
lengths = st.integers(1, LONGEST)


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({name: random_bases(length, length) for name, length in LENGTHS.items()})


@pytest.fixture(scope="module")
def long_genome(make_genome: MakeGenome) -> Genome:
    unit = random_bases(1 << 16, 3)
    return make_genome({"long": unit * 40, "short": unit * 3})


def splits_of(genome: Genome, drawn: dict[str, list[tuple[str, int, int]]]) -> Splits:
    return {
        split: as_spans(
            genome.span(name, start, min(start + size, LENGTHS[name])) for name, start, size in rows
        )
        for split, rows in drawn.items()
    }


@given(drawn=splits_strategy, length=lengths)
@settings(max_examples=200)
def test_strict_splits_never_share_a_base(
    genome: Genome, drawn: dict[str, list[tuple[str, int, int]]], length: int
) -> None:
    splits = splits_of(genome, drawn)
    train, held_out = split_windows(genome, splits, length, "strict")
    assert list(held_out) == ["valid", "test"]
    rows = train.sample(np.arange(50), 0)
    seen = {position for start in rows.tolist() for position in range(start, start + length)}
    held = as_spans([span for split in ("valid", "test") for span in splits[split].tolist()])
    assert not any(start <= position < end for start, end in held.tolist() for position in seen)
    assert not any(split_overlap({"train": train} | held_out).values())
    for split, windows in held_out.items():
        assert overlap(windows.coverage(), splits[split]) == total(windows.coverage())


@given(drawn=splits_strategy, length=lengths, seed=st.integers(0, 99))
@settings(max_examples=40)
def test_strict_batches_hold_no_base_of_another_split(
    make_genome: MakeGenome, drawn: dict[str, list[tuple[str, int, int]]], length: int, seed: int
) -> None:
    # a base tells its split: A of none or train, C of valid, G of test
    letters = {name: ["A"] * size for name, size in LENGTHS.items()}
    for split, letter in (("valid", "C"), ("test", "G")):
        for name, start, size in drawn[split]:
            end = min(start + size, LENGTHS[name])
            letters[name][start:end] = letter * (end - start)
    genome = make_genome({name: "".join(bases) for name, bases in letters.items()})
    train, held_out = split_windows(genome, splits_of(genome, drawn), length, "strict")
    dataset = GenomeDataset(genome, train, 32, seed, reverse_complement=True)
    assert set(np.unique(dataset.packed(0, range(32)))) <= {A, T, N}
    for split, base in (("valid", C), ("test", G)):
        batches = evaluation_batches(genome, held_out[split], 4)
        assert set(np.unique(np.concatenate([batch.numpy() for batch in batches]))) - {N} == {base}


@given(drawn=splits_strategy)
def test_separate_gives_shared_bases_to_the_last_split(
    genome: Genome, drawn: dict[str, list[tuple[str, int, int]]]
) -> None:
    splits = splits_of(genome, drawn)
    separated = separate(splits)
    assert np.array_equal(separated["valid"], subtract(splits["valid"], splits["test"]))
    assert total(np.concatenate(list(separated.values()))) == sum(map(total, separated.values()))
    assert total(np.concatenate(list(separated.values()))) == total(np.concatenate(list(splits.values())))


@pytest.mark.parametrize("exponent", [10, 14, 17, 18, 19, 20])
def test_paper_rule_gives_the_counts_of_the_paper(long_genome: Genome, exponent: int) -> None:
    length = 1 << exponent
    starts = [0, 1 << 16, 5 << 16, 20 << 16, 38 << 16]  # some overlap, one begins and one ends its record
    segments = as_spans(long_genome.span("long", start, start + SEGMENT) for start in starts)
    windows = paper_windows(long_genome, segments, length)
    assert len(windows) == (len(segments) * SEGMENT // length if length <= SEGMENT else 2 * len(segments))
    record = long_genome.record_spans[0]
    assert windows.starts.min() >= record[0]
    assert windows.starts.max() + length <= record[1]
    if length > SEGMENT:
        begin, finish = windows.starts.reshape(2, -1)
        assert begin.tolist() == [min(start, record[1] - length) for start in segments[:, 0].tolist()]
        assert finish.tolist() == [max(end - length, record[0]) for end in segments[:, 1].tolist()]
    else:
        assert total(segments) == total(np.stack([windows.starts, windows.starts + length], axis=1))


def test_paper_rule_overlap_of_windows_longer_than_segments(long_genome: Genome) -> None:
    splits = {
        "train": as_spans(
            [long_genome.span("long", 0, SEGMENT), long_genome.span("long", SEGMENT, 2 * SEGMENT)]
        ),
        "valid": as_spans([long_genome.span("long", 2 * SEGMENT, 3 * SEGMENT)]),
        "test": as_spans(),
    }
    # training reads up to the third segment's end and one target more, validation from the second's start
    train, held_out = split_windows(long_genome, splits, 1 << 18, "paper")
    assert split_overlap({"train": train} | held_out) == {("train", "valid"): 2 * SEGMENT + 1}
    train, held_out = split_windows(long_genome, splits, 1 << 16, "paper")
    # the target of the last training input
    assert split_overlap({"train": train} | held_out) == {("train", "valid"): 1}
    train, held_out = split_windows(long_genome, splits, 1 << 16, "strict")
    assert split_overlap({"train": train} | held_out) == {("train", "valid"): 0}


def test_record_without_room_is_logged(long_genome: Genome, caplog: pytest.LogCaptureFixture) -> None:
    segments = as_spans([long_genome.span("short", 0, SEGMENT), long_genome.span("long", 0, SEGMENT)])
    assert len(paper_windows(long_genome, segments, 1 << 18)) == 2
    assert "1 of 2 segments lie on records of under 262144 bases" in caplog.text


def test_unknown_rule_and_impossible_lengths_are_errors(genome: Genome) -> None:
    splits = {
        "train": as_spans([genome.span("a")]),
        "valid": as_spans([genome.span("b")]),
        "test": as_spans(),
    }
    with pytest.raises(ValueError, match="window rule 'loose' is unknown; it must be one of paper, strict"):
        split_windows(genome, splits, 10, "loose")
    for rule in ("paper", "strict"):
        with pytest.raises(ValueError, match="window length is 0"):
            split_windows(genome, splits, 0, rule)
        with pytest.raises(
            ValueError, match=r"Split train: No window of 601 bases fits: the longest interval.* has 600"
        ):
            split_windows(genome, splits, 601, rule)
        with pytest.raises(ValueError, match="Split valid: No window of 200 bases fits"):
            split_windows(genome, splits, 200, rule)
        with pytest.raises(ValueError, match="Split train: It has no bases"):
            split_windows(genome, splits | {"train": as_spans()}, 10, rule)


RECORDS = {"chr1": 1000, "chr2": 501, "chrX": 1}


@pytest.fixture(scope="module")
def records(make_genome: MakeGenome) -> Genome:
    return make_genome({name: random_bases(length, length) for name, length in RECORDS.items()})


def write_bed(folder: Path, *lines: str) -> Path:
    path = folder / "x.bed"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_bed_keeps_order_overlap_and_split(tmp_path: Path, records: Genome) -> None:
    bed = write_bed(
        tmp_path, "chr1\t300\t500\ttrain", "1\t100\t400\ttrain", "", "chr2\t0\t501\tvalid\r", "X\t0\t1\ttest"
    )
    splits = read_bed_splits(bed, records)
    assert list(splits) == list(SPLITS)
    assert splits["train"].tolist() == [
        list(records.span("chr1", 300, 500)),
        list(records.span("chr1", 100, 400)),
    ]
    assert splits["valid"].tolist() == [list(records.span("chr2"))]
    assert splits["test"].tolist() == [list(records.span("chrX"))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t20\t10\ttrain", "chr1:20-10 is inverted"),
        ("chr1\t10\t10\ttrain", "chr1:10-10 is inverted, empty"),
        ("chr1\t0\t1001\ttrain", "ends past the end of chr1, which has 1000 bases .* another assembly"),
        ("chr7\t0\t10\ttrain", "no chromosome chr7 .* Nearest names: chr"),
        ("chr1\t0\t10\tholdout", "Split 'holdout' is unknown: it must be one of train, valid, test"),
        ("1\t0\t5\ttest", "already on line 1"),
        ("chr1\t0\t10", "is not an interval"),
        ("chr1 0 10 train", "is not an interval"),
        ("chrom\tstart\tend\tsplit", "is not an interval.* no header"),
        ("chr1\t-5\t10\ttrain", "is not an interval"),
        ("chr1\t1.5\t10\ttrain", "is not an interval"),
        ("chr1\t0\t10\ttrain\textra", "is not an interval"),
    ],
)
def test_bad_line_is_an_error_with_file_and_number(
    tmp_path: Path, records: Genome, line: str, message: str
) -> None:
    bed = write_bed(tmp_path, "chr1\t0\t5\ttrain", line)
    with pytest.raises(ValueError, match=f"x.bed, line 2: .*{message}"):
        read_bed_splits(bed, records)


def test_missing_empty_and_compressed_bed_are_errors(tmp_path: Path, records: Genome) -> None:
    with pytest.raises(FileNotFoundError, match="There is no BED file"):
        read_bed_splits(tmp_path / "absent.bed", records)
    with pytest.raises(ValueError, match="holds no intervals"):
        read_bed_splits(write_bed(tmp_path), records)
    (tmp_path / "x.bed").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(ValueError, match="is not a text file"):
        read_bed_splits(tmp_path / "x.bed", records)


def test_regions_go_to_their_split(records: Genome) -> None:
    splits = split_by_region(records, {"valid": ["2"], "train": ["chr1:101-1,000"]})
    assert splits["train"].tolist() == [list(records.span("chr1", 100, 1000))]
    assert splits["valid"].tolist() == [list(records.span("chr2"))]
    assert not len(splits["test"])


def test_byte_order_mark_is_ignored(tmp_path: Path, records: Genome) -> None:
    bed = write_bed(tmp_path, "chr1\t0\t10\ttrain")
    bed.write_bytes(b"\xef\xbb\xbf" + bed.read_bytes())
    assert read_bed_splits(bed, records)["train"].tolist() == [list(records.span("chr1", 0, 10))]


def test_bases_outside_all_regions_are_training(records: Genome) -> None:
    splits = split_by_region(records, {"valid": ["chr1:1-300", "chr2"], "test": ["chr1:901-"]})
    kept = [
        list(records.span("chr1", 300, 900)),
        *(list(records.span(name)) for name in RECORDS if name > "chr2"),
    ]
    assert splits["train"].tolist() == kept


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"train": ["chr1"], "valid": ["1"]}, "1 are in split train and again in valid"),
        ({"train": ["chr1", "1"]}, "1 are in split train and again in train"),
        ({"train": ["chr1:1-500"], "test": ["chr1:500-600"]}, "in split train and again in test"),
        ({"train": ["chr9"]}, "no chromosome chr9"),
        ({"train": ["chr9:1-5"]}, "no chromosome chr9"),
        ({"train": ["chr1:5"]}, "'chr1:5' is not a region"),
        ({"train": ["chr1:a-b"]}, "'chr1:a-b' is not a region"),
        ({"train": ["chr1:0-5"]}, "The region chr1:0-5 .* begins before base 1"),
        ({"train": ["chr1:9-5"]}, "The region chr1:9-5 is inverted"),
        ({"train": ["chr1:1,001-"]}, "The region chr1:1,001- .* past the end of chr1, which has 1,000 bases"),
        ({"train": ["chr1:1-1001"]}, "ends past the end of chr1, which has 1000 bases"),
        ({"dev": ["chr1"]}, "Split 'dev' is unknown"),
    ],
)
def test_bad_regions_are_errors(records: Genome, regions: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_region(records, regions)


@given(valid=st.floats(0, 0.6), test=st.floats(0, 0.39))
def test_fractions_split_every_record_completely(records: Genome, valid: float, test: float) -> None:
    splits = split_by_fraction(records, valid, test)
    assert sum(total(spans) for spans in splits.values()) == sum(RECORDS.values())
    for name, length in RECORDS.items():
        record = records.record_spans[list(RECORDS).index(name)][None]
        assert abs(overlap(splits["valid"], record) - valid * length) <= 1
        assert abs(overlap(splits["test"], record) - test * length) <= 1


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (1.0, 0.0), (-0.1, 0.2), (0.2, -0.1)])
def test_fractions_without_training_are_errors(records: Genome, valid: float, test: float) -> None:
    with pytest.raises(ValueError, match="leave nothing for training"):
        split_by_fraction(records, valid, test)
