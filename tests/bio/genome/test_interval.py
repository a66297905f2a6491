"""BED files give intervals in file order, and an error names the file and the line."""

from pathlib import Path

import pytest

from bio.genome.genome import Genome
from bio.genome.interval import Interval, read_intervals
from tests.bio.conftest import MakeGenome, random_bases

LENGTHS = {"chr1": 1000, "chr2": 501, "chrX": 1}


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({name: random_bases(length, length) for name, length in LENGTHS.items()})


def write_bed(folder: Path, *lines: str) -> Path:
    path = folder / "x.bed"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_intervals_of_any_bed(tmp_path: Path, genome: Genome) -> None:
    bed = write_bed(
        tmp_path,
        "track name=x",
        "#chrom\tstart\tend",
        "1\t300\t500",
        "chr1\t300\t400\tgene one\t0\t+",
        "chrX\t0\t1\r",
    )
    assert read_intervals(bed, genome) == [
        Interval("chr1", 300, 500, ""),
        Interval("chr1", 300, 400, "gene one"),
        Interval("chrX", 0, 1, ""),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t20\t10", "chr1:20-10 is inverted"),
        ("1\t0\t1001", "ends past the end of chr1, which has 1000 bases .* another assembly"),
        ("chr7\t0\t10", "no chromosome chr7"),
        ("chr1 0 10", "is not an interval"),
        ("chr1\t0", "is not an interval"),
    ],
)
def test_bad_interval_is_an_error_with_file_and_line(
    tmp_path: Path, genome: Genome, line: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"x.bed, line 2: .*{message}"):
        read_intervals(write_bed(tmp_path, "# intervals", line), genome)
    with pytest.raises(ValueError, match="holds no intervals"):
        read_intervals(write_bed(tmp_path, "# intervals"), genome)
