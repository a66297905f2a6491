"""The download command maps names, chromosomes and sets of species to sources of the table."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from omegaconf import OmegaConf

from bio import download
from core.storage.download import Source, TransferError, read_sources
from tests.core.storage.file_server import FileServer, file_server

TABLE = read_sources(download.TABLE)
APES = OmegaConf.load(download.SPECIES / "great_apes.yaml")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with file_server() as server:
        yield server


def failure(*arguments: str) -> str:
    """The sentence that the command ends with; "" when it succeeds."""
    try:
        download.main(arguments)
    except SystemExit as stop:
        return str(stop.code)
    return ""


def test_a_failure_is_one_line_on_stderr_and_status_1() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bio.download", "hg83"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("There is no source 'hg83'")
    assert run.stderr.count("\n") == 1


def test_a_chromosome_comes_from_a_mirror_verified_by_its_list(server: FileServer, tmp_path: Path) -> None:
    body = b"gzip of chromosome 20"
    listed = hashlib.md5(body).hexdigest()
    server.files["/goldenPath/hg38/chromosomes/chr20.fa.gz"] = body
    server.files["/goldenPath/hg38/chromosomes/md5sum.txt"] = f"{listed}  chr20.fa.gz\n".encode()
    arguments = ["hg38", "--chromosome", "20", "--folder", str(tmp_path), "--mirror", server.address]
    assert failure(*arguments) == ""
    assert (tmp_path / "hg38" / "chr20.fa.gz").read_bytes() == body
    server.requests.clear()
    assert failure(*arguments) == ""
    assert server.requests == []


def test_unexpected_file_size_is_an_error(server: FileServer, tmp_path: Path) -> None:
    server.files["/goldenPath/hg38/bigZips/hg38.fa.gz"] = b"another genome"
    sentence = failure("hg38", "--folder", str(tmp_path), "--mirror", server.address)
    assert "announces 14 bytes" in sentence
    assert "expected 983,659,424" in sentence
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Name a source"),
        (["hg83"], "There is no source 'hg83'. Did you mean hg38"),
        (["great_aps"], "Did you mean great_apes"),
        (["hg38", "--chromosome", "chr23"], "hg38 has no chromosome 'chr23'; it has chr1, chr2, "),
        (["hs1", "--chromosome", "chr1"], "hs1 is one file, without single chromosomes"),
        (["hg38", "--mirror", "ftp://host"], "must begin with http:// or https://"),
    ],
)
def test_wrong_command_is_one_sentence(arguments: list[str], part: str) -> None:
    assert part in failure(*arguments)


def test_names_select_each_source_once() -> None:
    assert download.select_sources(TABLE, ["hg38"], []) == ["hg38"]
    assert download.select_sources(TABLE, ["hg38"], ["chr20", "20", "X"]) == ["hg38/chr20", "hg38/chrX"]
    apes = ["hs1", "mPanTro3", "mPanPan1", "mGorGor1", "mPonAbe1"]
    assert download.select_sources(TABLE, ["great_apes", "hs1", "hg38_intervals"], []) == [
        *apes,
        "hg38_intervals",
    ]


def test_the_list_shows_every_source_and_set(capsys: pytest.CaptureFixture[str]) -> None:
    download.main(["--list"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown[: len(TABLE)] == list(TABLE)
    assert "great_apes" in shown[len(TABLE) :]


def test_set_without_sources_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("species:\n  a:\n    fasta: a.fa\n")
    monkeypatch.setattr(download, "SPECIES", tmp_path)
    with pytest.raises(TransferError, match="There is no source 'mine'"):
        download.select_sources(TABLE, ["mine"], [])


def test_every_chromosome_of_hg38_is_in_the_table() -> None:
    chromosomes = [name.removeprefix("hg38/chr") for name in TABLE if name.startswith("hg38/")]
    assert chromosomes == [*map(str, range(1, 23)), "X", "Y", "M"]
    assert all(TABLE[f"hg38/chr{name}"].address.endswith(f"/chr{name}.fa.gz") for name in chromosomes)


@pytest.mark.parametrize("name", TABLE)
def test_a_source_is_complete(name: str) -> None:
    source: Source = TABLE[name]
    assert urlsplit(source.address).scheme == "https"
    assert Path(source.file).suffix == Path(source.address).suffix
    assert not Path(source.file).is_absolute()
    if source.checksum:
        algorithm, _, value = source.checksum.partition(":")
        assert len(bytes.fromhex(value)) == hashlib.new(algorithm).digest_size
    assert len({other.file for other in TABLE.values()}) == len(TABLE)


def test_the_split_of_the_apes_is_the_published_one_and_disjoint() -> None:
    split = OmegaConf.to_container(APES.split)
    assert split["valid"] == ["1", "3", "12", "13"]
    assert split["test"] == ["5", "7", "9", "10", "11"]
    everything = [chromosome for chromosomes in split.values() for chromosome in chromosomes]
    assert sorted(everything) == sorted([*map(str, range(1, 23)), "X", "Y"])


@pytest.mark.parametrize("name", APES.species)
def test_every_ape_has_every_chromosome_once(name: str) -> None:
    species = APES.species[name]
    assert species.source in TABLE
    expected = {*map(str, range(1, 23)), "X", "Y"}
    if name != "human":
        expected = expected - {"2"} | set(APES.aliases["2"])
    if name == "gorilla":
        expected = expected - {"5", "17"} | {"5x17", "17x5"}
    assert set(species.chromosomes) == expected
    records = list(species.chromosomes.values())
    assert len(set(records)) == len(records) == (24 if name == "human" else 25)
    if name != "human":
        hsa = {number: record.partition("_hsa")[2] for number, record in species.chromosomes.items()}
        assert all(number.upper() == human.upper() for number, human in hsa.items())
        own = sorted(record.partition("_")[0] for record in records)
        assert own == sorted(f"chr{i}" for i in [*range(1, 24), "X", "Y"])
