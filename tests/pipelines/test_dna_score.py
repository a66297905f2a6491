"""Tables, likelihoods and bins of one pass agree; bad input writes nothing."""

import csv
import fcntl
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bio.genome.genome import open_genome
from pipelines import dna_score
from pipelines.common.config import schema_keys

Row = dict[str, str]


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FASTA with chr1 half in repeats, chr2 of N only, chr3 without repeats."""
    random = np.random.default_rng(1)
    bases = ["".join(random.choice(list("ACGT"), length)) for length in (400, 90)]
    text = f">chr1\n{bases[0][:200]}{bases[0][200:].lower()}\n>chr2\n{'N' * 50}\n>chr3\n{bases[1]}\n"
    path = tmp_path_factory.mktemp("scored") / "scored.fa"
    path.write_text(text)
    return path


def score(run: Path, genome: Path, *arguments: str) -> list[Row]:
    """Run the script and return the rows of its table."""
    assert dna_score.main([f"checkpoint={run}", f"fasta={genome}", "overwrite=true", *arguments]) == 0
    with Path("score.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(Path().rglob("*"))
    assert dna_score.main(list(arguments)) == 1
    assert sorted(Path().rglob("*")) == before
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    return error[error.index("error: ") :]


def test_table_has_a_row_per_record(run: Path, genome: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = score(run, genome)
    assert [(row["record"], row["start"], row["end"]) for row in rows] == [
        ("chr1", "0", "400"),
        ("chr2", "0", "50"),
        ("chr3", "0", "90"),
    ]
    assert [row["bases"] for row in rows] == ["399", "0", "89"]
    assert [row["repeat_bases"] for row in rows] == ["200", "0", "0"]
    assert rows[1]["bits_per_base"] == rows[2]["repeat_bits_per_base"] == ""
    for row in (rows[0], rows[2]):
        bits = float(row["bits_per_base"])
        assert 1.5 < bits < 3
        assert float(row["perplexity"]) == pytest.approx(2**bits, abs=1e-4)
    printed = capsys.readouterr()
    assert "over 488 bases of 3 interval(s)" in printed.out
    assert "in repeats (41.0% of the bases)" in printed.out
    assert "base/s" in printed.err


def test_tracks_and_table_agree(run: Path, genome: Path) -> None:
    rows = score(run, genome, "likelihood=p.npy", "bedgraph=p.bedGraph", "bin=30", "piece=64")
    likelihood = np.load("p.npy", mmap_mode="r")
    assert len(likelihood) == 540
    assert np.isnan(likelihood[[0, 450]]).all()
    bits = -likelihood[:400] / math.log(2)
    assert np.nanmean(bits) == pytest.approx(float(rows[0]["bits_per_base"]), abs=1e-4)
    assert np.nanmean(bits[200:]) == pytest.approx(float(rows[0]["repeat_bits_per_base"]), abs=1e-4)
    assert np.nanmean(bits[:200]) == pytest.approx(float(rows[0]["unique_bits_per_base"]), abs=1e-4)
    bins = [line.split("\t") for line in Path("p.bedGraph").read_text().splitlines()]
    assert [line[0] for line in bins] == ["chr1"] * 14 + ["chr3"] * 3
    assert bins[-4][1:3] == ["390", "400"]
    assert float(bins[1][3]) == pytest.approx(bits[30:60].mean(), abs=1e-3)


def test_intervals_are_read_alone_or_after_context(run: Path, genome: Path) -> None:
    Path("regions.bed").write_text("#chrom\tstart\tend\tname\n1\t150\t250\tboth\nchr3\t0\t90\nchr2\t0\t9\n")
    arguments = ["bed=regions.bed", "likelihood=p.npy"]
    rows = score(run, genome, *arguments)
    assert [(row["record"], row["name"], row["bases"]) for row in rows] == [
        ("chr1", "both", "99"),
        ("chr3", "", "89"),
        ("chr2", "", "0"),
    ]
    after = score(run, genome, *arguments, "context=150")
    assert [row["bases"] for row in after] == ["100", "89", "0"]
    in_region = np.load("p.npy")[:100]
    score(run, genome, "likelihood=p.npy", "records=[1]")
    np.testing.assert_allclose(in_region, np.load("p.npy")[150:250], atol=1e-5)


def test_json_has_the_total(run: Path, genome: Path) -> None:
    assert dna_score.main([f"checkpoint={run}", f"fasta={genome}", "output=score.json"]) == 0
    content = json.loads(Path("score.json").read_text())
    rows, summed = content["rows"], content["total"]
    assert rows[1]["bits_per_base"] is None
    assert summed["bases"] == 488
    mean = (399 * rows[0]["bits_per_base"] + 89 * rows[2]["bits_per_base"]) / 488
    assert summed["bits_per_base"] == pytest.approx(mean, abs=1e-5)
    assert summed["unique_bases"] == 288


def test_report_for_a_sequence_of_n(run: Path, genome: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(run, genome, "records=[chr2]")[0]["bases"] == "0"
    assert "No base to score" in capsys.readouterr().out


def test_many_processes_are_an_error(
    run: Path, genome: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "start it without torchrun" in fails(capsys, f"checkpoint={run}", f"fasta={genome}")


def test_read_only_folder_without_an_index(run: Path, genome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the pack and the index of pyfaidx to the user's cache if the folder is read-only."""
    expected = score(run, genome)
    Path("data").mkdir()
    copy = shutil.copy(genome, "data/copy.fa")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert score(run, Path(copy)) == expected
    assert [path.name for path in Path("data").iterdir()] == ["copy.fa"]
    assert any(Path("cache").rglob("copy.fa.*.pack.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=absent"], "absent"),
        (["fasta=absent.fa"], "There is no FASTA file"),
        (["records=[chr7]"], "no chromosome chr7"),
        (["records=[chr1]", "bed=other.bed"], "Both bed and records are set"),
        (["bed=absent.bed"], "There is no BED file"),
        (["bed=other.bed"], "other.bed, line 1: .*another assembly"),
        (["output=score.txt"], "must end in .tsv or .json"),
        (["output=absent/score.tsv"], "absent/score.tsv"),
        (["likelihood=absent/p.npy"], "absent/p.npy"),
        (["bedgraph=p.bedGraph", "bed=twice.bed"], "intervals overlap"),
        (["context=-1"], "context is -1"),
        (["bin=0"], "bin is 0"),
        (["piece=0"], "piece is 0"),
        (["outptu=x.tsv"], "Did you mean output"),
    ],
)
def test_bad_argument(
    arguments: list[str], message: str, run: Path, genome: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_genome(genome)
    Path("other.bed").write_text("chr1\t0\t401\n")
    Path("twice.bed").write_text("chr1\t0\t40\nchr1\t30\t50\n")
    error = fails(capsys, f"checkpoint={run}", f"fasta={genome}", *arguments)
    assert re.search(message, error)


def test_earlier_files_stay_when_a_call_fails(
    run: Path, genome: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("score.tsv", "p.npy", "p.bedGraph")
    for name in names:
        Path(name).write_text("earlier")

    def breaks(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dna_score, "table_text", breaks)
    arguments = [f"checkpoint={run}", f"fasta={genome}", "likelihood=p.npy", "bedgraph=p.bedGraph"]
    arguments.append("overwrite=true")
    assert dna_score.main(arguments) == 1
    assert all(Path(name).read_text() == "earlier" for name in names)


@pytest.mark.parametrize("name", ["score.tsv", "p.npy", "p.bedGraph"])
def test_existing_output_is_refused(
    name: str, run: Path, genome: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text("earlier")
    arguments = [f"checkpoint={run}", f"fasta={genome}", "likelihood=p.npy", "bedgraph=p.bedGraph"]
    assert f"{name} already exists" in fails(capsys, *arguments)
    assert Path(name).read_text() == "earlier"


def test_a_second_process_on_one_output_is_refused(
    run: Path, genome: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = os.open(".score.tsv.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(writer, fcntl.LOCK_EX)
    assert "score.tsv is being written by" in fails(capsys, f"checkpoint={run}", f"fasta={genome}")
    os.close(writer)


def test_a_pipe_is_written_into(run: Path, genome: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert dna_score.main([f"checkpoint={run}", f"fasta={genome}", "output=pipe"]) == 0
    assert os.read(reader, 9999).startswith(b"record\tstart\tend")
    assert [path.name for path in Path().iterdir()] == ["pipe"]
    os.close(reader)


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dna_score.main(["--help"])
    page = capsys.readouterr().out
    for key, entry in schema_keys(dna_score.Config).items():
        assert f"  {key}  (" in page
        assert entry.help in " ".join(page.split())
