"""Generated FASTA is valid, holds A, C, G and T only, and depends on seed and number only."""

import os
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyfaidx
import pytest

from bio.genome.fasta_writer import FastaWriter
from core.checkpoints.checkpoint import save_checkpoint
from core.decoding import sampling_run
from core.decoding.sampling_state import SavedState, save_state
from core.models.sequence import SequenceModel, SequenceModelConfig
from pipelines import dna_generate
from pipelines.common.config import schema_keys


def generate(run: Path, *arguments: str) -> dict[str, str]:
    """Run the script and return its records by header."""
    call = [f"checkpoint={run}", "length=70", "output=out.fa", "overwrite=true", *arguments]
    assert dna_generate.main(call) == 0
    text = Path("out.fa").read_text()
    records = (record.partition("\n") for record in text.removeprefix(">").split("\n>"))
    return {header: bases.replace("\n", "") for header, _, bases in records}


def bases(run: Path, *arguments: str) -> list[str]:
    return list(generate(run, *arguments).values())


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, output: str = "out.fa") -> str:
    before = sorted(Path().iterdir())
    assert dna_generate.main([*arguments, f"output={output}"]) == 1
    assert sorted(Path().iterdir()) == before
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    return error[error.index("error: ") :]


def test_records_are_fasta_of_acgt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = generate(run, "count=3")
    assert "3 sequence(s) of 70 bases are in out.fa" in capsys.readouterr().out
    assert all(len(sequence) == 70 and set(sequence) <= set("ACGT") for sequence in records.values())
    assert len(set(records.values())) == 3
    indexed = pyfaidx.Fasta("out.fa", as_raw=True)
    assert [record[:] for record in indexed] == list(records.values())
    assert list(indexed.keys()) == ["sample_0", "sample_1", "sample_2"]


def test_header_has_the_likelihood_of_the_bases(run: Path) -> None:
    for header in generate(run, "count=2", "prompt=ACGT"):
        fields = dict(field.split("=") for field in header.split()[1:])
        nats, bits = float(fields["log_likelihood"]), float(fields["bits_per_base"])
        assert bits == pytest.approx(-nats / 70 / 0.6931, rel=1e-3)
        assert 1.5 < bits < 5


def test_sequence_depends_on_seed_not_batch(run: Path) -> None:
    whole = bases(run, "count=5", "seed=3")
    assert bases(run, "count=5", "seed=3") == whole
    assert bases(run, "count=5", "seed=3", "batch_size=2") == whole
    assert bases(run, "count=2", "seed=3") == whole[:2]
    assert bases(run, "count=5", "seed=4") != whole


def test_prompt_and_filters_change_the_continuation(run: Path) -> None:
    plain = bases(run, "prompt=ACGTN")
    assert bases(run, "prompt=acgtn") == plain
    greedy = bases(run, "prompt=ACGTN", "sampling.temperature=0", "count=2")
    assert greedy[0] == greedy[1]
    assert bases(run, "prompt=ACGTN", "sampling.top_k=1") == greedy[:1]


@pytest.mark.parametrize("known", [1, 3])
def test_a_prompt_shorter_than_the_convolution_is_continued(run: Path, known: int) -> None:
    whole = bases(run, "seed=3")[0]
    prompt = [f"prompt={whole[:known]}", f"length={70 - known}"]
    assert bases(run, "seed=3", *prompt) == [whole[known:]]


def test_default_output_is_in_the_working_directory(run: Path) -> None:
    assert dna_generate.main([f"checkpoint={run}", "length=3"]) == 0
    assert [path.name for path in Path().iterdir()] == ["generated.fa"]


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dna_generate.main(["--help"])
    page = capsys.readouterr().out
    for key, entry in schema_keys(dna_generate.Config).items():
        assert f"  {key}  (" in page
        assert entry.help in page


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("count=0", "count is 0"),
        ("length=0", "length is 0"),
        ("batch_size=0", "batch_size is 0"),
        ("save_every=-1", "save_every is -1"),
        ("sampling.temperature=-1", "temperature is -1"),
        ("sampling.top_p=0", "top_p is 0"),
        ("prompt=ACXT", "'X'"),
        ("prompt=", "prompt"),
        ("tempreture=1", "Did you mean sampling.temperature"),
    ],
)
def test_bad_argument(argument: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, f"checkpoint={run}", argument)


def test_stdout_cannot_be_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, f"checkpoint={run}", "resume=true", output="-")
    assert "output=- cannot be resumed; choose a file" in error


def test_checkpoint_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "checkpoint" in fails(capsys)
    assert "absent" in fails(capsys, "checkpoint=absent")
    Path("empty").mkdir()
    assert "holds no checkpoint" in fails(capsys, "checkpoint=empty")


def test_damaged_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / "checkpoints/best.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged" in fails(capsys, "checkpoint=cut.safetensors")


def test_checkpoint_of_another_kind_of_model(capsys: pytest.CaptureFixture[str]) -> None:
    shape = SequenceModelConfig(vocab_size=256, d_model=8, n_layer=1)
    save_checkpoint(Path("audio.safetensors"), SequenceModel(shape), {"model": asdict(shape)}, {"step": 1})
    assert "256 symbols" in fails(capsys, "checkpoint=audio.safetensors")


def test_earlier_file_stays_when_a_call_fails(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.fa").write_text("earlier")

    def breaks(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FastaWriter, "write_bases", breaks)
    assert dna_generate.main([f"checkpoint={run}", "length=3", "output=out.fa", "overwrite=true"]) == 1
    assert [path.name for path in Path().iterdir()] == ["out.fa"]
    assert Path("out.fa").read_text() == "earlier"


def interrupt_at(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGINT during the first write of bases from `start` on."""
    signals, write_bases = [signal.SIGINT], FastaWriter.write_bases

    def interrupted_write(self: FastaWriter, record: int, position: int, bases: str) -> None:
        write_bases(self, record, position, bases)
        if position == start and signals:
            signal.raise_signal(signals.pop())

    monkeypatch.setattr(FastaWriter, "write_bases", interrupted_write)


@pytest.mark.usefixtures("short_pieces")
def test_ctrl_c_and_resume(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [f"checkpoint={run}", "count=3", "length=70", "batch_size=2"]
    assert dna_generate.main([*call, "output=whole.fa"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        assert dna_generate.main([*call, "output=cut.fa"]) == 130
    assert "Stopped after 45 of 70 bases in samples 0 to 1 of 3. Start the same" in capsys.readouterr().err
    assert not Path("cut.fa").exists()

    fails(capsys, *call, "resume=true", "seed=1", output="cut.fa")
    assert dna_generate.main([*call, "output=cut.fa", "resume=true"]) == 0
    assert Path("cut.fa").read_bytes() == Path("whole.fa").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["cut.fa", "whole.fa"]


@pytest.mark.usefixtures("short_pieces")
def test_killed_process_resumes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume from the files left by a kill right after a saved state."""

    def save_and_copy(path: Path, settings: dict[str, Any], state: SavedState) -> None:
        save_state(path, settings, state)
        if state.position == 30:
            shutil.copytree(".", "killed", dirs_exist_ok=True, ignore=shutil.ignore_patterns("killed"))

    monkeypatch.setattr(sampling_run, "save_state", save_and_copy)
    whole = generate(run, "count=3", "batch_size=2", "save_every=0")
    assert sorted(path.name for path in Path("killed").iterdir()) == [
        ".out.fa.lock",
        "out.fa.part",
        "out.fa.state.safetensors",
    ]
    monkeypatch.chdir("killed")
    assert generate(run, "count=3", "batch_size=2", "resume=true") == whole


@pytest.mark.usefixtures("short_pieces")
def test_new_call_discards_the_interrupted_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(run, "count=2")
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        assert (
            dna_generate.main([f"checkpoint={run}", "length=70", "output=out.fa", "overwrite=true", "seed=5"])
            == 130
        )
    assert generate(run, "count=2") == whole
    assert [path.name for path in Path().iterdir()] == ["out.fa"]


@pytest.mark.usefixtures("short_pieces")
def test_missing_part_is_an_error(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        assert dna_generate.main([f"checkpoint={run}", "length=70", "output=out.fa"]) == 130
    Path("out.fa.part").unlink()
    capsys.readouterr()
    assert "out.fa.part is missing" in fails(capsys, f"checkpoint={run}", "length=70", "resume=true")


@pytest.mark.parametrize("key", ["resume=false", "resume=true"])
def test_an_existing_file_is_not_replaced(key: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.fa").write_text("earlier")
    assert "out.fa already exists" in fails(capsys, f"checkpoint={run}", "length=3", key)
    assert Path("out.fa").read_text() == "earlier"


def test_a_pipe_is_written_into(run: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert dna_generate.main([f"checkpoint={run}", "length=5", "output=pipe"]) == 0
    assert os.read(reader, 999).startswith(b">sample_0 length=5 ")
    assert [path.name for path in Path().iterdir()] == ["pipe"]
    os.close(reader)


@pytest.mark.usefixtures("short_pieces")
def test_stdout_has_the_same_bases(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = generate(run, "count=2")
    capsys.readouterr()
    assert dna_generate.main([f"checkpoint={run}", "length=70", "count=2", "output=-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(">")] == [">sample_0", ">sample_1"]
    assert [len(line) for line in lines if not line.startswith(">")] == [60, 10, 60, 10]
    assert "".join(line for line in lines if not line.startswith(">")) == "".join(file.values())
