"""Species classification from the command line: above chance, reproducible, invalid input rejected."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bio.sample import SAMPLE
from bio.species.classifier import load_classifier, predict_probabilities
from bio.species.dataset import WindowList
from bio.species.evaluation import advice
from bio.species.run_data import open_set, split_windows
from core.checkpoints.checkpoint import resolve_checkpoint, save_checkpoint
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import World
from pipelines import dna_classify, dna_species_pretrain
from pipelines.common.config import Setting, merge, read_yaml, schema_keys
from tests.bio.conftest import random_bases, write_fasta
from tests.bio.species_sets import NAMES, markov_species, two_species, write_set

TINY = [
    "data.length=96",
    "data.validation_windows=10",
    "model.d_model=16",
    "model.n_layer=2",
    "train.steps=60",
    "train.batch_size=16",
    "train.learning_rate=1e-2",
    "train.validate_every=20",
    "train.checkpoint_every=40",
    "evaluation.k=3",
    "evaluation.fit_windows=200",
    "evaluation.lengths=[192]",
]
CARRIED = ["--config", "human_or_ecoli", f"data.folder={SAMPLE.parent}"]
HERE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def species(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of five simulated species with its FASTA files."""
    return markov_species(tmp_path_factory.mktemp("species"), 16_000)


@pytest.fixture(scope="module")
def trained(species: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "apes"
    assert dna_classify.main([*keys_of(species), *TINY, f"run.dir={folder}"]) == 0
    return folder


def keys_of(species: Path) -> list[str]:
    return [f"data.species={species}", f"data.folder={species.parent}"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of a call that fails before it creates a run folder."""
    assert dna_classify.main([*TINY, "run.dir=run", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert not Path("run").exists()
    return error


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def test_bundled_species_are_classified_above_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["train.steps=60", "evaluation.windows=100", "evaluation.fit_windows=300"]
    assert dna_classify.main([*CARRIED, *few, "run.dir=run"]) == 0
    result = result_of(Path("run"))
    assert result["classes"] == ["human", "ecoli"]
    fine_tuned = result["lengths"][0]["rows"][0]
    assert fine_tuned["model"] == "fine-tuned"
    assert fine_tuned["accuracy"] > 0.75
    capsys.readouterr()
    assert dna_classify.main(["predict", "checkpoint=run", f"fasta={SAMPLE}", "output=said.tsv"]) == 0
    assert "human" in capsys.readouterr().out


def test_five_species_are_classified_above_chance(trained: Path) -> None:
    result = result_of(trained)
    assert result["classes"] == list(NAMES)
    assert [at_length["length"] for at_length in result["lengths"]] == [96, 192]
    for at_length, least in zip(result["lengths"], (0.5, 0.6), strict=True):
        ours, kmers, probe = at_length["rows"]
        assert ours["low"] > least  # chance is 0.2
        assert ours["low"] < ours["accuracy"] <= ours["high"]
        assert (kmers["model"], probe["model"]) == ("k-mers", "frozen backbone")
        assert kmers["accuracy"] > 0.4
        confusion = np.array(at_length["confusion"])
        assert confusion.sum() == at_length["windows"] == 5 * (4000 // at_length["length"])
        assert np.trace(confusion) / confusion.sum() == ours["accuracy"]
        assert [vote["named"] for vote in at_length["votes"]] == list(NAMES)


def test_a_run_fills_its_folder(trained: Path) -> None:
    pictures = {f"confusion_{length}.png" for length in (96, 192)} | {"accuracy_by_length.png"}
    assert pictures | {"config.yaml", "evaluation.json", "summary.json"} <= {
        path.name for path in trained.iterdir()
    }
    config = merge(dna_classify.Config, read_yaml(str(trained / "config.yaml")))
    assert config.data.classes == list(NAMES)
    assert config.data.sha256 is not None


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
def test_an_evaluation_is_the_same_each_time_and_for_any_number_of_workers(trained: Path) -> None:
    before = (trained / "evaluation.json").read_bytes()
    shutil.copytree(trained, "again")
    for workers in (0, 1, 4):
        Path("again/evaluation.json").unlink()
        assert dna_classify.main(["evaluate", "run.dir=again", f"evaluation.workers={workers}"]) == 0
        assert Path("again/evaluation.json").read_bytes() == before


@dataclass(frozen=True)
class Alone(World):
    """One rank of several without a reduction."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor


def test_any_number_of_processes_gives_every_window_the_same(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bio.species.classifier.BATCH_BASES", 96 * 7)
    config = merge(dna_classify.Config, read_yaml(str(trained / "config.yaml")))
    windows = split_windows(open_set(config.data, HERE)[1], config.data, "test")
    listed = WindowList(windows, windows.list_windows(None, 96))
    model = load_classifier(resolve_checkpoint(trained), HERE.device).model
    whole = predict_probabilities(model, listed, 5, HERE, both_strands=True)
    np.testing.assert_allclose(whole.sum(axis=1), 1)
    for size in (2, 3):
        shares = [
            predict_probabilities(model, listed, 5, Alone(rank, size, HERE.device), both_strands=True)
            for rank in range(size)
        ]
        np.testing.assert_array_equal(sum(shares), whole)


def test_long_windows_are_read_in_segments(trained: Path) -> None:
    config = merge(dna_classify.Config, read_yaml(str(trained / "config.yaml")))
    windows = split_windows(open_set(config.data, HERE)[1], config.data, "test", 200)
    tokens = WindowList(windows, windows.list_windows(3, 200))
    model = load_classifier(resolve_checkpoint(trained), HERE.device).model
    found = predict_probabilities(model, tokens, 5, HERE, chunk=96)
    with torch.no_grad():
        for number, window in enumerate(tokens):
            first, second = (model(window[None, begin : begin + 96])[0, 0] for begin in (0, 96))
            expected = ((first.log_softmax(-1) + second.log_softmax(-1)) / 2).softmax(-1)
            np.testing.assert_allclose(found[number], expected, rtol=1e-4)


def test_resumed_equals_uninterrupted(trained: Path) -> None:
    shutil.copytree(trained, "killed")
    last = "checkpoints/step-00000060.safetensors"
    for name in (last, "summary.json", "evaluation.json"):
        Path("killed", name).unlink()
    assert dna_classify.main(["run.dir=killed", "--resume"]) == 0
    resumed, uninterrupted = load_file(f"killed/{last}"), load_file(trained / last)
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
    assert result_of(Path("killed")) == result_of(trained)


def test_predict_names_the_species_of_each_record(
    trained: Path, species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [
        (species.parent / f"{name}.fa").read_text().split(">c3\n")[1].replace("\n", "") for name in NAMES
    ]
    records = {f"of_{name}": text[:2000] for name, text in zip(NAMES, texts, strict=True)}
    write_fasta(Path("unknown.fa"), {**records, "short": texts[0][:40], "gap": "N" * 200})
    assert dna_classify.main(["predict", f"checkpoint={trained}", "fasta=unknown.fa", "windows=20"]) == 0
    assert "101 windows of 7 record(s)" in capsys.readouterr().out  # one of the short, none of the gap
    rows = list(csv.DictReader(Path("species.tsv").read_text().splitlines(), delimiter="\t"))
    assert [row["species"] for row in rows[:5]] == list(NAMES)
    assert [row["windows"] for row in rows] == ["20"] * 5 + ["1", "0", "101"]
    assert rows[6]["species"] == ""
    assert rows[7]["record"] == "all"
    for row in rows[:6]:
        assert sum(float(row[name]) for name in NAMES) == pytest.approx(1, abs=1e-3)


def test_predict_rejects_unreadable_files(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fasta(Path("gap.fa"), {"gap": "N" * 200})
    assert dna_classify.main(["predict", f"checkpoint={trained}", "fasta=gap.fa"]) == 1
    assert "Every window of gap.fa holds more than 50% N" in capsys.readouterr().err
    assert dna_classify.main(["predict", f"checkpoint={run}", "fasta=gap.fa"]) == 1
    assert "best.safetensors does not hold a DNA classifier (12 symbols" in capsys.readouterr().err
    assert not Path("species.tsv").exists()


def test_it_starts_from_a_model_pretrained_on_the_same_species(species: Path) -> None:
    arguments = [
        *keys_of(species),
        "data.length=64",
        "model.d_model=8",
        "model.n_layer=1",
        "train.steps=2",
    ]
    assert dna_species_pretrain.main([*arguments, "train.batch_size=4", "run.dir=pretrained"]) == 0
    bits = json.loads(Path("pretrained/summary.json").read_text())["validation"]["bits_per_base"]
    assert 1.5 < bits < 4
    arguments = ["checkpoint=pretrained", "train.steps=1", "evaluation.windows=3"]
    assert dna_classify.main([*keys_of(species), *TINY, *arguments, "run.dir=tuned"]) == 0
    config = merge(dna_classify.Config, read_yaml("tuned/config.yaml"))
    assert (config.model.d_model, config.model.n_layer) == (8, 1)
    pretrained = load_file("pretrained/checkpoints/step-00000002.safetensors")
    tuned = load_file("tuned/checkpoints/step-00000001.safetensors")
    moved = (tuned["model.backbone.embedding.weight"] - pretrained["model.embedding.weight"]).abs().max()
    assert 0 < moved < 0.05


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.vocab_size=4", "model.vocab_size is 4; DNA has 12 symbols"),
        ("data.length=0", "data.length is 0; it must be at least 1"),
    ],
)
def test_pretraining_rejects_other_data_than_dna(
    argument: str, message: str, species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dna_species_pretrain.main([*keys_of(species), argument, "run.dir=run"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_length_warm_up_doubles_with_the_batch_as_it_is(
    species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = ["length_warmup.start=24", "length_warmup.steps=20", "--dry-run"]
    assert dna_classify.main([*keys_of(species), *TINY, *growth, "run.dir=run"]) == 0
    plan = capsys.readouterr().out
    assert "60 steps of 16 windows" in plan
    table = [line.replace(",", "").split()[:4] for line in plan.splitlines()[-5:-1]]
    assert table[1:] == [["24", "16", "1", "20"], ["48", "16", "21", "20"], ["96", "16", "41", "20"]]
    assert list(Path().iterdir()) == []


def test_invalid_training_data_is_rejected(species: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, *keys_of(species), "data.length=9000")
    assert "Species human has no window of 9,000 bases in split train: its longest sequence, c1" in error
    error = fails(
        capsys,
        *keys_of(species),
        "evaluation.lengths=[48]",
        "evaluation.split=valid",
        "data.length=5000",
    )
    assert "no window of 5,000 bases in split valid" in error
    error = fails(capsys, *keys_of(species), "length_warmup.start=48", "length_warmup.steps=60")
    assert "The stages before 96 bases take 60 steps" in error
    assert "must be null" in fails(capsys, *keys_of(species), "train.backpropagation_length=10")
    assert "model.vocab_size is 256" in fails(capsys, *keys_of(species), "model.vocab_size=256")
    error = fails(capsys, *keys_of(species), "evaluation.split=valid", "evaluation.lengths=[5000]")
    assert "no window of 5,000 bases" in error
    assert "sha256" in fails(capsys, *keys_of(species), "data.sha256=abc")
    error = fails(capsys, *keys_of(species), "data.classes=[human,mouse]")
    assert "the run has human, mouse" in error
    assert "no set of species apes" in fails(capsys, "data.species=apes")
    assert "evaluation.k is 20" in fails(capsys, *keys_of(species), "evaluation.k=20")
    assert "at least 1, or null" in fails(capsys, *keys_of(species), "data.validation_windows=0")
    assert "between 0 and 1" in fails(capsys, *keys_of(species), "data.max_n_fraction=-1")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_lengths_without_windows_are_rejected_before_training(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = two_species(
        tmp_path,
        {"a": 900, "valid": 900, "test": 900},
        split={"train": ["a"], "valid": ["valid"], "test": ["test"]},
    )
    records = {"a": random_bases(900), "valid": random_bases(900), "test": random_bases(900)}
    # windows of 96 begin at 0; those of 192 only from 341 to 367, where there is no multiple of 48
    records[split] = f"{random_bases(100)}{'N' * 260}{random_bases(180)}{'N' * 200}"
    write_fasta(tmp_path / "one.fa", records)
    arguments = [*keys_of(write_set(tmp_path, content)), "evaluation.fit_windows=20"]
    error = fails(capsys, *arguments)
    assert "Species one has no window of 192 bases at a multiple of" in error


def test_too_few_baseline_windows_are_rejected_before_training(
    species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, *keys_of(species), "evaluation.fit_bases=500")
    assert "5 windows of 96 bases to fit a baseline do not hold every species: raise" in error
    error = fails(capsys, *keys_of(species), "probe_start=false", "evaluation.fit_windows=1")
    assert "1 windows of 96 bases" in error


def test_invalid_species_sets_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = two_species(tmp_path, {"a": 900, "b": 900}, split={"train": ["a"], "test": ["b"]})
    both = content["species"]
    arguments = keys_of(write_set(tmp_path, {**content, "species": {"one": both["one"]}}))  # type: ignore[index]
    assert "There is only one species, one" in fails(capsys, *arguments)
    clashing = {"one": both["one"], "ONE": both["two"]}  # type: ignore[index]
    arguments = keys_of(write_set(tmp_path, {**content, "species": clashing}))
    assert "'one' and 'ONE' have clashing names" in fails(capsys, *arguments)
    arguments = keys_of(
        write_set(tmp_path, {**content, "species": {n: {"fasta": "one.fa"} for n in ("x", "y")}})
    )
    assert "one.fa is listed twice, for x and for y" in fails(capsys, *arguments)
    unequal = {"x": {"train": ["one.fa"], "test": ["two.fa"]}, "y": {"train": ["three.fa"]}}
    arguments = keys_of(write_set(tmp_path, {"species": unequal}))
    assert "The splits are unequal: x have files for test, y have none" in fails(capsys, *arguments)


def test_a_checkpoint_of_another_vocabulary_is_rejected(
    species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"vocab_size": 256, "d_model": 8, "n_layer": 1}
    model = SequenceModel(SequenceModelConfig(**shape))
    save_checkpoint(Path("bytes.safetensors"), model, {"model": shape}, {"step": 1})
    error = fails(capsys, *keys_of(species), "checkpoint=bytes.safetensors")
    assert "256 symbols, a model of DNA has 12" in error
    assert "no checkpoint missing" in fails(capsys, *keys_of(species), "checkpoint=missing").lower()


def test_a_classifier_is_no_model_of_the_next_base(
    trained: Path, species: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, *keys_of(species), f"checkpoint={trained}")
    assert "a classifier of species, which does not predict bases" in error


def test_validation_windows_are_of_the_validation_split(trained: Path) -> None:
    events = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    validations = [event for event in events if event["event"] == "validation"]
    assert [event["step"] for event in validations] == [20, 40, 60]
    assert validations[-1]["accuracy"] > 0.4
    assert validations[-1]["loss"] < np.log(5)


@pytest.mark.parametrize("schema", [dna_classify.Config, dna_species_pretrain.Config])
def test_every_key_has_its_help(schema: type) -> None:
    for key, entry in schema_keys(schema).items():
        assert entry.help, f"{key} has no help"


def test_help_of_predict(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dna_classify.main(["predict", "--help"])
    assert "max_n_fraction" in capsys.readouterr().out


def test_without_validation_the_last_checkpoint_is_evaluated(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        write_fasta(tmp_path / f"{name}.fa", {r: random_bases(400, seed, "AACG"[seed:]) for r in "ab"})
    both = {name: {"fasta": f"{name}.fa"} for name in ("one", "two")}
    path = write_set(tmp_path, {"species": both, "split": {"train": ["a"], "test": ["b"]}})
    arguments = [*keys_of(path), *TINY, "train.steps=3", "evaluation.fit_windows=20", "run.dir=run"]
    assert dna_classify.main(arguments) == 0
    assert json.loads(Path("run/evaluation.json").read_text())["step"] == 3


def test_the_mean_is_the_default_pooling_and_a_run_keeps_its_own() -> None:
    assert merge(dna_classify.Config, [Setting("data.species", "x", "test")]).head.pooling == "mean"
    assert merge(dna_classify.Config, read_yaml("great_apes")).head.pooling == "last"
    assert merge(dna_classify.Config, read_yaml("great_apes_1m")).head.pooling == "last"


def test_a_run_below_the_k_mers_says_what_to_try(species: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["train.steps=1", "train.learning_rate=1e-5", "probe_start=false", "head.pooling=last"]
    lengths = ["evaluation.lengths=[]", "evaluation.windows=20"]
    assert dna_classify.main([*keys_of(species), *TINY, *short, *lengths, "run.dir=run"]) == 0
    text = capsys.readouterr().out
    assert "The fine-tuned model is less accurate than the k-mers in windows of 96 bases. Try: " in text
    for remedy in ("head.pooling=mean", "checkpoint=RUN", "probe_start=true", "train.steps is 1"):
        assert remedy in text
    assert result_of(Path("run"))["advice"] in text


def test_a_run_above_the_k_mers_gets_no_advice() -> None:
    rows = [{"length": 96, "gain": {"value": 0.0}}, {"length": 1920, "gain": {"value": -0.1}}]
    assert advice(rows[:1], ["more steps"]) is None
    assert advice(rows, ["more steps"]) == (
        "The fine-tuned model is less accurate than the k-mers in windows of 1,920 bases. Try: more steps."
    )


def test_records_and_windows_that_are_left_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = {"a": 900, "b": 900, "scrap": 50, "gap": 300}
    content = two_species(tmp_path, lengths, split={"train": ["a"], "test": ["b", "scrap", "gap"]})
    gap = f"{random_bases(100)}{'N' * 100}{random_bases(100)}"
    records = {"a": random_bases(900), "b": random_bases(900), "scrap": random_bases(50), "gap": gap}
    write_fasta(tmp_path / "one.fa", records)
    arguments = [*keys_of(write_set(tmp_path, content)), *TINY, "evaluation.lengths=[]"]
    assert dna_classify.main([*arguments, "train.steps=1", "evaluation.fit_windows=20", "run.dir=run"]) == 0
    text = capsys.readouterr().out
    short = "1 record(s) shorter than a window, 50 bases (scrap)"
    assert f"left out of one: {short}; 1 window(s) with too many N (data.max_n_fraction)\n" in text
    assert f"left out of two: {short}\n" in text
    assert result_of(Path("run"))["lengths"][0]["left_out"] == [
        {"species": "one", "short": ["scrap"], "short_bases": 50, "windows": 1},
        {"species": "two", "short": ["scrap"], "short_bases": 50, "windows": 0},
    ]
