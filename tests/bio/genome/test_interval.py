"""Splits are what the BED, the names or the fractions say, and a bad line is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.interval import SPLITS, Region, read_bed, read_regions, split_by_fraction, split_by_region
from bio.genome.spans import overlap, total
from tests.bio.conftest import MakeGenome, random_bases

LENGTHS = {"chr1": 1000, "chr2": 501, "chrX": 1}


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({name: random_bases(length, length) for name, length in LENGTHS.items()})


def write_bed(folder: Path, *lines: str) -> Path:
    path = folder / "x.bed"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_bed_keeps_order_overlap_and_split(tmp_path: Path, genome: Genome) -> None:
    bed = write_bed(
        tmp_path, "chr1\t300\t500\ttrain", "1\t100\t400\ttrain", "", "chr2\t0\t501\tvalid\r", "X\t0\t1\ttest"
    )
    splits = read_bed(bed, genome)
    assert list(splits) == list(SPLITS)
    assert splits["train"].tolist() == [
        list(genome.span("chr1", 300, 500)),
        list(genome.span("chr1", 100, 400)),
    ]
    assert splits["valid"].tolist() == [list(genome.span("chr2"))]
    assert splits["test"].tolist() == [list(genome.span("chrX"))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t20\t10\ttrain", "chr1:20-10 is inverted"),
        ("chr1\t10\t10\ttrain", "chr1:10-10 is inverted, empty"),
        ("chr1\t0\t1001\ttrain", "ends past the end of chr1, which has 1000 bases .* another assembly"),
        ("chr7\t0\t10\ttrain", "no chromosome chr7 .* Near to it: chr"),
        ("chr1\t0\t10\tholdout", "Split 'holdout' is unknown: it must be one of train, valid, test"),
        ("1\t0\t5\ttest", "stands already on line 1"),
        ("chr1\t0\t10", "is not an interval"),
        ("chr1 0 10 train", "is not an interval"),
        ("chrom\tstart\tend\tsplit", "is not an interval: .* no header"),
        ("chr1\t-5\t10\ttrain", "is not an interval"),
        ("chr1\t1.5\t10\ttrain", "is not an interval"),
        ("chr1\t0\t10\ttrain\textra", "is not an interval"),
    ],
)
def test_bad_line_is_named_with_file_and_number(
    tmp_path: Path, genome: Genome, line: str, message: str
) -> None:
    bed = write_bed(tmp_path, "chr1\t0\t5\ttrain", line)
    with pytest.raises(ValueError, match=f"x.bed, line 2: .*{message}"):
        read_bed(bed, genome)


def test_missing_empty_and_compressed_bed_are_refused(tmp_path: Path, genome: Genome) -> None:
    with pytest.raises(FileNotFoundError, match="There is no BED file"):
        read_bed(tmp_path / "absent.bed", genome)
    with pytest.raises(ValueError, match="holds no intervals"):
        read_bed(write_bed(tmp_path), genome)
    (tmp_path / "x.bed").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(ValueError, match="is not a text file: decompress it"):
        read_bed(tmp_path / "x.bed", genome)


def test_regions_of_any_bed(tmp_path: Path, genome: Genome) -> None:
    bed = write_bed(
        tmp_path,
        "track name=x",
        "#chrom\tstart\tend",
        "1\t300\t500",
        "chr1\t300\t400\tgene one\t0\t+",
        "chrX\t0\t1\r",
    )
    assert read_regions(bed, genome) == [
        Region("chr1", 300, 500, ""),
        Region("chr1", 300, 400, "gene one"),
        Region("chrX", 0, 1, ""),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t20\t10", "chr1:20-10 is inverted"),
        ("1\t0\t1001", "ends past the end of chr1, which has 1000 bases .* another assembly"),
        ("chr7\t0\t10", "no chromosome chr7"),
        ("chr1 0 10", "is not a region"),
        ("chr1\t0", "is not a region"),
    ],
)
def test_bad_region_is_named_with_file_and_number(
    tmp_path: Path, genome: Genome, line: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"x.bed, line 2: .*{message}"):
        read_regions(write_bed(tmp_path, "# regions", line), genome)
    with pytest.raises(ValueError, match="holds no regions"):
        read_regions(write_bed(tmp_path, "# regions"), genome)


def test_regions_go_to_the_split_that_names_them(genome: Genome) -> None:
    splits = split_by_region(genome, {"valid": ["2"], "train": ["chr1:101-1,000"]})
    assert splits["train"].tolist() == [list(genome.span("chr1", 100, 1000))]
    assert splits["valid"].tolist() == [list(genome.span("chr2"))]
    assert not len(splits["test"])


def test_a_mark_at_the_start_of_a_file_is_no_part_of_a_name(tmp_path: Path, genome: Genome) -> None:
    bed = write_bed(tmp_path, "chr1\t0\t10\ttrain")
    bed.write_bytes(b"\xef\xbb\xbf" + bed.read_bytes())
    assert read_bed(bed, genome)["train"].tolist() == [list(genome.span("chr1", 0, 10))]


def test_what_no_split_names_is_training(genome: Genome) -> None:
    splits = split_by_region(genome, {"valid": ["chr1:1-300", "chr2"], "test": ["chr1:901-"]})
    kept = [
        list(genome.span("chr1", 300, 900)),
        *(list(genome.span(name)) for name in LENGTHS if name > "chr2"),
    ]
    assert splits["train"].tolist() == kept


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"train": ["chr1"], "valid": ["1"]}, "1 are named in split train and again in valid"),
        ({"train": ["chr1", "1"]}, "1 are named in split train and again in train"),
        ({"train": ["chr1:1-500"], "test": ["chr1:500-600"]}, "named in split train and again in test"),
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
def test_bad_regions_are_refused(genome: Genome, regions: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_region(genome, regions)


@given(valid=st.floats(0, 0.6), test=st.floats(0, 0.39))
def test_fractions_part_every_record_without_loss(genome: Genome, valid: float, test: float) -> None:
    splits = split_by_fraction(genome, valid, test)
    assert sum(total(spans) for spans in splits.values()) == sum(LENGTHS.values())
    for name, length in LENGTHS.items():
        record = genome.record_spans[list(LENGTHS).index(name)][None]
        assert abs(overlap(splits["valid"], record) - valid * length) <= 1
        assert abs(overlap(splits["test"], record) - test * length) <= 1


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (1.0, 0.0), (-0.1, 0.2), (0.2, -0.1)])
def test_fractions_without_training_are_refused(genome: Genome, valid: float, test: float) -> None:
    with pytest.raises(ValueError, match="leave nothing for training"):
        split_by_fraction(genome, valid, test)
