"""Pretraining from the command line: resumed runs are bit-identical, and bad input writes nothing."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bio.dna_model import load_model
from bio.genome.genome import open_genome
from bio.genome.spans import as_spans
from bio.scoring.evaluation import evaluate
from bio.windows.window import tiled_windows
from core.training import World
from pipelines import dna_pretrain
from pipelines.common.config import merge, read_yaml, schema_keys
from tests.bio.conftest import random_bases
from tests.pipelines.conftest import TINY, write_fasta

ROOT = Path(__file__).parents[2]


def events(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("event", "step", "loss")} for line in lines]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one-line error of a failed start; check that there is no run folder."""
    assert dna_pretrain.main([*TINY, "run.dir=run", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not Path("run").exists()
    return error


def test_a_run_fills_its_folder(run: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "loss_curve.png", "checkpoints"):
        assert (run / name).exists()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4
    assert 1.9 < summary["validation"]["bits_per_base"] < 2.6
    assert summary["tokens"] == 4 * 3 * 48


def test_resumed_equals_uninterrupted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, "killed")
    Path("killed/checkpoints/step-00000004.safetensors").unlink()
    Path("killed/summary.json").unlink()

    assert dna_pretrain.main(["run.dir=killed", "--resume"]) == 0

    final = "checkpoints/step-00000004.safetensors"
    resumed, uninterrupted = load_file(f"killed/{final}"), load_file(run / final)
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
    assert events(Path("killed")) == events(run)


def test_a_finished_run_resumes_to_its_end(run: Path) -> None:
    shutil.copytree(run, "done")
    assert dna_pretrain.main(["run.dir=done", "resume=true"]) == 0
    assert events(Path("done")) == events(run)


def test_run_in_the_default_folder_resumes_with_its_configuration(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, "runs/dna_pretrain")
    assert dna_pretrain.main(["resume=true"]) == 0
    assert events(Path("runs/dna_pretrain")) == events(run)
    capsys.readouterr()
    write_fasta(Path("other.fa"), {"a": 3000}, seed=8)
    assert dna_pretrain.main([*TINY, "data.fasta=other.fa", "resume=true"]) == 1
    assert "other.fa is not the expected file" in capsys.readouterr().err


def test_resumed_run_may_train_longer(run: Path) -> None:
    shutil.copytree(run, "longer")
    assert dna_pretrain.main(["run.dir=longer", "resume=true", "train.steps=6"]) == 0
    assert json.loads(Path("longer/summary.json").read_text())["steps"] == 6


def test_config_of_a_run_is_a_configuration(run: Path) -> None:
    settings = read_yaml(str(run / "config.yaml"))
    assert {setting.key for setting in settings} == set(schema_keys(dna_pretrain.Config))
    assert merge(dna_pretrain.Config, settings).model.d_model == 16


def test_config_of_a_resumed_run_starts_a_new_run(run: Path) -> None:
    shutil.copytree(run, "resumed")
    assert dna_pretrain.main(["run.dir=resumed", "--resume"]) == 0
    assert dna_pretrain.main(["--config", "resumed/config.yaml", "run.dir=again"]) == 0
    assert events(Path("again")) == events(run)


def test_torchrun_shards_the_batch_with_the_same_result(fasta: Path) -> None:
    arguments = [*TINY, f"data.fasta={fasta}", "train.batch_size=4"]
    assert dna_pretrain.main([*arguments, "run.dir=alone"]) == 0
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pipelines.dna_pretrain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, *arguments, "run.dir=shared"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("genome    ") == 1
    for shared, alone in zip(events(Path("shared")), events(Path("alone")), strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=1e-6)


def test_dry_run_prints_the_plan_and_writes_nothing(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_pretrain.main([*TINY, f"data.fasta={fasta}", "run.dir=run", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "2 record(s), 5,000 bases" in plan
    assert "train     4,000 bases, 83 windows of 48" in plan
    assert "train and valid share 0 bases (split: strict)" in plan
    assert "4 steps of 3 windows: 576 bases" in plan
    assert "7,024 parameters" in plan
    assert list(Path().iterdir()) == []


HG38_1M = ["--config", "hg38_1m", "--dry-run", "data.fasta=genome.fa", "data.bed=segments.bed"]
INTERVAL = 1 << 17


@pytest.mark.parametrize(("split", "overlap"), [("strict", 0), ("paper", (7 + 8 + 7) * INTERVAL + 1)])
def test_longest_paper_run_prints_its_plan(
    split: str, overlap: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use 24 training intervals of 2^17 bases, 8 for validation, 24 for training."""
    bases = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, 56 * INTERVAL)]
    Path("genome.fa").write_bytes(b">chr1\n" + bases.tobytes() + b"\n")
    rows = [(number * INTERVAL, "valid" if 24 <= number < 32 else "train") for number in range(56)]
    Path("segments.bed").write_text(
        "".join(f"chr1\t{start}\t{start + INTERVAL}\t{name}\n" for start, name in rows)
    )
    amount = [f"data.split={split}", "train.batch_size=1", "train.steps=600"]
    assert dna_pretrain.main([*HG38_1M, *amount]) == 0
    plan = capsys.readouterr().out
    assert f"train     {48 * INTERVAL:,} bases, {6 if split == 'strict' else 96} windows of 1,048,576" in plan
    assert f"valid     {8 * INTERVAL:,} bases" in plan
    assert f"train and valid share {overlap:,} bases (split: {split})" in plan
    assert "12 blocks of width 128, 1,401,472 parameters" in plan
    assert f"600 steps of 1 windows: {600 * 2**20:,} bases" in plan
    assert "GiB on a GPU" in plan
    stages = [line.split()[0] for line in plan.splitlines() if line.split()[0].replace(",", "").isdecimal()]
    assert stages == [f"{2**power:,}" for power in range(10, 21)]
    assert not Path("runs").exists()


def test_plan_without_the_genome_names_the_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_pretrain.main(["--config", "hg38_1m", "--dry-run"]) == 1
    printed = capsys.readouterr()
    assert "12 blocks of width 128, 1,401,472 parameters" in printed.out
    assert "20,000 steps of 16 windows" in printed.out
    assert "data/hg38/hg38.fa.gz: check the path" in printed.err
    assert printed.err.endswith("python -m bio.download hg38\n")
    write_fasta(Path("genome.fa"), {"chr1": 100})
    assert dna_pretrain.main(["--config", "hg38_1m", "--dry-run", "data.fasta=genome.fa"]) == 1
    assert capsys.readouterr().err.endswith("python -m bio.download hg38_intervals\n")


def test_a_warm_up_is_validated_at_its_lengths(fasta: Path) -> None:
    warm_up = ["length_warmup.start=12", "length_warmup.epochs=0.05", "train.batch_size=2"]
    arguments = [*TINY, f"data.fasta={fasta}", "run.dir=run", "train.steps=8", "train.validate_every=100"]
    assert dna_pretrain.main([*arguments, *warm_up]) == 0
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    ends = [event["step"] for event in logged if event["event"] == "stage"]
    validations = [event for event in logged if event["event"] == "validation"]
    assert [event["step"] for event in validations] == ends
    assert len(ends) == 3
    for event in validations:
        for key in ("bits_per_base_12", "bits_per_base_24", "bits_per_base"):
            assert 1.5 < event[key] < 3


def test_plan_of_paper_split_reports_overlap(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, f"data.fasta={fasta}", "data.length=800", "data.split=paper", "--dry-run"]
    assert dna_pretrain.main(arguments) == 0
    assert "train and valid share 602 bases (split: paper)" in capsys.readouterr().out


@pytest.mark.parametrize("splits", ["data.bed=segments.bed", "data.valid_chromosomes=[chr2]"])
def test_held_out_intervals_and_chromosomes(
    splits: str, fasta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("segments.bed").write_text("chr1\t0\t3000\ttrain\nchr2\t0\t2000\tvalid\n")
    assert dna_pretrain.main([*TINY, f"data.fasta={fasta}", splits, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "train     3,000 bases" in plan
    assert "valid     2,000 bases, 41 windows of 48" in plan


def test_without_held_out_bases_there_is_no_validation(fasta: Path) -> None:
    arguments = [*TINY, f"data.fasta={fasta}", "data.valid_fraction=0", "run.dir=run", "train.steps=1"]
    assert dna_pretrain.main(arguments) == 0
    assert json.loads(Path("run/summary.json").read_text())["validation"] == {}


@pytest.mark.parametrize("command", [["pipelines/dna_pretrain.py"], ["-m", "pipelines.dna_pretrain"]])
def test_help_explains_every_key_either_way_it_is_started(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for key, entry in schema_keys(dna_pretrain.Config).items():
        assert entry.help, f"{key} has no help"
        assert f"  {key}  (" in done.stdout
        assert entry.help in " ".join(done.stdout.split())


def test_validation_in_another_file(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_fasta(Path("other.fa"), {"20": 2000}, seed=1)
    arguments = [*TINY, f"data.fasta={fasta}", f"data.valid_fasta={other}", "run.dir=run", "train.steps=1"]
    chosen = ["data.train_chromosomes=[chr1, chr2:501-]", "data.valid_chromosomes=[20:1-1000]"]
    assert dna_pretrain.main([*arguments, *chosen, "data.markov_orders=[0, 3]"]) == 0
    plan = capsys.readouterr().out
    assert f"held out  {other}: 1 record(s), 2,000 bases" in plan
    assert "train     4,500 bases, 93 windows of 48" in plan
    assert "valid     1,000 bases, 20 windows of 48" in plan
    assert "overlap   0.00% of the 128-mers of valid are also in train" in plan
    table = json.loads(Path("run/markov.json").read_text())
    assert [row["order"] for row in table["rows"]] == [0, 3]
    best = min(row["bits_per_base"] for row in table["rows"])
    assert json.loads(Path("run/summary.json").read_text())["validation"]["markov_bits_per_base"] == best
    assert read_yaml("run/config.yaml")
    assert dna_pretrain.main(["run.dir=run", "--resume"]) == 0
    write_fasta(other, {"20": 2000}, seed=2)
    assert dna_pretrain.main(["run.dir=run", "--resume"]) == 1
    assert "data.valid_sha256 is" in capsys.readouterr().err


def test_same_sequence_in_both_files_is_an_error(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["data.train_chromosomes=[chr1]", "data.valid_chromosomes=[chr1:1001-]"]
    error = fails(capsys, f"data.fasta={fasta}", f"data.valid_fasta={fasta}", *chosen)
    assert "100.0% of the 128-mers" in error
    assert "the same sequence is in both" in error


@pytest.mark.parametrize("strand", ["alt", "rc"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_same_sequence_under_another_name_in_one_file_is_an_error(
    strand: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = random_bases(3000)
    copy = text if strand == "alt" else text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    records = {"chr1": text, "chr2": random_bases(3000, 1), f"chr1_{strand}": copy}
    Path("g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    held_out = ["data.valid_chromosomes=[chr2]", "data.test_chromosomes=[chr1]"]
    if split == "valid":
        held_out = ["data.valid_chromosomes=[chr1]"]
    error = fails(capsys, "data.fasta=g.fa", *held_out)
    assert f"100.0% of the 128-mers of split {split} (g.fa)" in error
    chosen = [*held_out, "data.max_shared=1", "run.dir=run", "--dry-run"]
    assert dna_pretrain.main([*TINY, "data.fasta=g.fa", *chosen]) == 0
    assert f"100.00% of the 128-mers of {split} are also in train" in capsys.readouterr().out


def test_continued_pretraining_starts_from_the_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_fasta(Path("other.fa"), {"x": 3000}, seed=9)
    arguments = [*TINY[:3], *TINY[5:], f"data.fasta={other}", "train.steps=1", "train.learning_rate=1e-4"]
    assert dna_pretrain.main([*arguments, f"checkpoint={run}", "run.dir=continued"]) == 0
    best = run / "checkpoints/best.safetensors"
    assert f"start     {best}" in capsys.readouterr().out
    before, after = load_file(best), load_file("continued/checkpoints/step-00000001.safetensors")
    moved = (after["model.embedding.weight"] - before["model.embedding.weight"]).abs().max()
    assert 0 < moved < 1e-3
    assert after["optimizer.step.embedding.weight"] == 1
    config = merge(dna_pretrain.Config, read_yaml("continued/config.yaml"))
    assert (config.model.d_model, config.model.n_layer) == (16, 2)
    assert config.checkpoint == str(best)

    shutil.copytree(run, "start")
    again = ["run.dir=continued", "resume=true", "train.steps=2"]
    assert dna_pretrain.main([*again, f"checkpoint={run}"]) == 0
    assert load_file("continued/checkpoints/step-00000002.safetensors")["optimizer.step.norm_f.weight"] == 2
    capsys.readouterr()
    assert dna_pretrain.main([*again, "checkpoint=start"]) == 1
    assert f"checkpoint is start, but the run in continued started from {best}" in capsys.readouterr().err
    assert dna_pretrain.main(["run.dir=start", "resume=true", f"checkpoint={run}"]) == 1
    assert "the run in start started from new parameters" in capsys.readouterr().err


def test_continued_pretraining_refuses_another_shape(
    run: Path, fasta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, f"data.fasta={fasta}", f"checkpoint={run}", "model.n_layer=3")
    assert "model.n_layer is 2 there and 3 here" in error
    assert "absent" in fails(capsys, f"data.fasta={fasta}", "checkpoint=absent")
    arguments = [*TINY, f"data.fasta={fasta}", f"checkpoint={run}", "model.recompute=block", "--dry-run"]
    assert dna_pretrain.main(arguments) == 0


def test_the_test_split_is_scored_at_the_end_with_the_best_checkpoint(
    fasta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("segments.bed").write_text("chr1\t0\t3000\ttrain\nchr2\t0\t1000\tvalid\nchr2\t1000\t2000\ttest\n")
    arguments = [*TINY, f"data.fasta={fasta}", "data.bed=segments.bed", "run.dir=run"]
    assert dna_pretrain.main([*arguments, "data.markov_orders=[0,1]", "data.validation_windows=null"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads(Path("run/summary.json").read_text())
    test, best = summary["test"], Path("run/checkpoints/best.safetensors")
    assert (test["checkpoint"], test["step"]) == ("best.safetensors", summary["best"]["step"])
    assert test["bases"] == 20 * 48
    genome = open_genome(fasta)
    windows = tiled_windows(genome, as_spans([genome.span("chr2", 1000, 2000)]), 48)
    cpu = torch.device("cpu")
    expected = evaluate(load_model(best, cpu), genome, windows, World(0, 1, cpu)).all.bits_per_base
    assert test["bits_per_base"] == pytest.approx(expected, rel=1e-6)
    assert f"test {expected:.4f} bits per base over 960 bases (best.safetensors" in printed
    assert [row["order"] for row in test["markov"]] == [0, 1]
    valid = json.loads(Path("run/validation.json").read_text())["markov"]
    for row in [*valid, *test["markov"]]:
        assert f"Markov {row['order']}    {row['bits_per_base']:.4f}" in printed
    assert test["markov"] != valid


def test_markov_models_are_printed_beside_the_result(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, f"data.fasta={fasta}", "run.dir=run", "data.markov_orders=[0,2]"]
    assert dna_pretrain.main(arguments) == 0
    printed = capsys.readouterr().out
    rows = json.loads(Path("run/markov.json").read_text())["rows"]
    for row in rows:
        assert f"Markov {row['order']}    {row['bits_per_base']:.4f}" in printed
    assert "bits per base worse than Markov" in printed


def test_a_validation_that_is_not_finite_is_an_error(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["train.learning_rate=1e30", "train.warmup=0", "train.validate_every=4", "train.weight_decay=0"]
    assert dna_pretrain.main([*TINY, f"data.fasta={fasta}", "run.dir=run", *wild]) == 1
    error = capsys.readouterr().err
    assert "The validation loss after step 4 is nan. The last checkpoint is run/checkpoints/step-" in error
    assert not Path("run/summary.json").exists()


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty"),
            (b"not a genome\n", "not a FASTA file"),
            (b">chr1\nACGTXQ\n", "record chr1, line 2: 'X' is not a nucleotide code"),
            (b">chr1\nACGT\n>chr1\nACGT\n", "two records of one name"),
            (gzip.compress(b">chr1\n" + b"ACGT" * 3000)[:-20], "truncated"),
        ],
        ids=["empty", "text", "foreign letter", "one name twice", "cut short"],
    )
    def test_fasta(self, content: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path("bad.fa").write_bytes(content)
        error = fails(capsys, "data.fasta=bad.fa")
        assert message in error
        assert "bad.fa" in error
        assert [path.name for path in Path().iterdir()] == ["bad.fa"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["data.fasta=absent.fa"], "absent.fa"),
            (["data.valid_chromosomes=[chr3]"], "no chromosome chr3"),
            (["data.valid_chromosomes=[chr1]", "data.test_chromosomes=[chr1]"], "chr1"),
            (["data.valid_chromosomes=[chr1, chr2]"], "train"),
            (["data.valid_fraction=1"], "nothing for training"),
            (["data.bed=inverted.bed"], "inverted.bed, line 2: Interval chr2:900-100 is inverted"),
            (["data.bed=inverted.bed", "data.valid_chromosomes=[chr1]"], "data.bed"),
            (["data.bed=absent.bed"], "absent.bed"),
            (["data.valid_fasta=absent.fa"], "absent.fa"),
            (["data.bed=inverted.bed", "data.train_chromosomes=[chr1]"], "data.bed"),
            (["data.train_chromosomes=[chr1:9]"], "'chr1:9' is not a region"),
            (["data.markov_orders=[2, 13]"], "The order of a Markov model is 13"),
            (["data.length=5000"], "No window of 5,000 bases fits"),
            (["data.length=0"], "data.length is 0"),
            (["data.length=0", "--dry-run", "data.fasta=absent.fa", "train.micro_tokens=9"], "length is 0"),
            (["data.valid_fraction=.nan"], "data.valid_fraction is nan; it must lie between 0 and 1"),
            (["data.max_n_fraction=.nan"], "data.max_n_fraction is nan; it must lie between 0 and 1"),
            (["data.max_n_fraction=-1"], "data.max_n_fraction is -1"),
            (["data.validation_windows=0"], "data.validation_windows"),
            (["data.lenght=3"], "Did you mean data.length"),
            (["train.micro_tokens=0"], "micro_tokens"),
            (["train.steps=0"], "steps"),
            (["model.d_model=0"], "d_model"),
            (["model.vocab_size=256"], "model.vocab_size is 256; DNA has 12 symbols"),
            (["model.selective=[dt, E]"], "E"),
            (["--config", "absent"], "absent"),
            (["--resume"], "run"),
        ],
    )
    def test_configuration(
        self, arguments: list[str], message: str, fasta: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("inverted.bed").write_text("chr1\t0\t3000\ttrain\nchr2\t900\t100\tvalid\n")
        assert message in fails(capsys, f"data.fasta={fasta}", *arguments)

    def test_run_folder_that_cannot_be_made(self, fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("file").touch()
        assert "file/run" in fails(capsys, f"data.fasta={fasta}", "run.dir=file/run")

    def test_run_that_does_not_exist(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "There is no run folder typo to resume" in fails(capsys, "run.dir=typo", "resume=true")

    def test_run_folder_that_holds_a_run(
        self, run: Path, fasta: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = sorted(run.rglob("*"))
        error = fails(capsys, f"data.fasta={fasta}", f"run.dir={run}")
        assert "resume=true" in error
        assert sorted(run.rglob("*")) == before

    def test_truncated_checkpoint(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(run, "cut")
        checkpoint = Path("cut/checkpoints/step-00000004.safetensors")
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        assert dna_pretrain.main(["run.dir=cut", "--resume", "train.steps=6"]) == 1
        error = capsys.readouterr().err
        assert "step-00000004.safetensors is truncated" in error
        assert error.count("\n") == 1

    def test_checkpoint_of_another_model(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert dna_pretrain.main([f"run.dir={run}", "--resume", "model.d_model=24"]) == 1
        assert "model.d_model is 16 there and 24 here" in capsys.readouterr().err

    def test_genome_that_is_not_the_run_s(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = write_fasta(Path("other.fa"), {"chr1": 4000})
        assert dna_pretrain.main([f"run.dir={run}", "--resume", f"data.fasta={other}"]) == 1
        assert "other.fa" in capsys.readouterr().err

    def test_loss_that_is_not_finite(self, fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["train.learning_rate=1e30", "train.max_skipped=2", "train.steps=20", "train.warmup=0"]
        arguments.append("train.validate_every=20")
        assert dna_pretrain.main([*TINY, f"data.fasta={fasta}", "run.dir=run", *arguments]) == 1
        assert "2 steps in a row had no finite loss" in capsys.readouterr().err
