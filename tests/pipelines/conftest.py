"""Fixtures: a tiny genome, tiny clips and a tiny run of each, once per session."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import core.training.distributed
from core.decoding import sampling_run
from pipelines import audio_classifier, audio_pretrain, dna_pretrain
from tests.audio.conftest import write_clips
from tests.pipelines.digits import TINY_CLASSIFIER, TINY_MODEL, write_digits

TINY = [
    "data.length=48",
    "data.valid_fraction=0.2",
    "data.validation_windows=6",
    "model.d_model=16",
    "model.n_layer=2",
    "train.steps=4",
    "train.batch_size=3",
    "train.checkpoint_every=2",
    "train.validate_every=2",
    "train.log_every=1",
]


PIECE = 15

TINY_AUDIO = [
    "data.source=fsdd",
    "data.length=60",
    "model.unet.d_model=4",
    "model.unet.d_state=4",
    "model.unet.n_layer=1",
    "model.unet.pools=[2,3]",
    "model.wavenet.d_model=4",
    "model.wavenet.n_stack=1",
    "model.samplernn.d_model=4",
    "train.steps=4",
    "train.batch_size=4",
    "train.checkpoint_every=2",
    "train.validate_every=2",
    "train.log_every=1",
    "train.learning_rate=1e-2",
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test in its own folder, so that relative paths stay in it."""
    monkeypatch.chdir(tmp_path)
    yield
    left = [
        path for path in tmp_path.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".pack-")
    ]
    assert left == [], "a temporary file was left"


def write_fasta(path: Path, lengths: dict[str, int], seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    records = {name: "".join(random.choice(list("ACGT"), length)) for name, length in lengths.items()}
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    return path


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Write samples in segments of PIECE tokens, independent of the time."""
    for name in ("SHORTEST_SEGMENT", "FIRST_SEGMENT", "LONGEST_SEGMENT"):
        monkeypatch.setattr(sampling_run, name, PIECE)
    return PIECE


@pytest.fixture(scope="session", autouse=True)
def one_cpu_thread() -> Iterator[None]:
    """Run the small models on one CPU thread; two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.training.distributed, "_device", lambda _: torch.device("cpu"))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fasta(tmp_path_factory.mktemp("genome") / "tiny.fa", {"chr1": 3000, "chr2": 2000})


@pytest.fixture(scope="session")
def run(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert dna_pretrain.main([f"data.fasta={fasta}", f"run.dir={folder}", *TINY]) == 0
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic digits of one speaker: 50 clips for training, 50 for validation, 50 for test."""
    return write_digits(tmp_path_factory.mktemp("digits") / "digits", takes=range(15))


@pytest.fixture(scope="session")
def classifier(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained classifier of the digits."""
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    assert audio_classifier.main([*TINY_CLASSIFIER, f"data.folder={digits}", f"run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def audio_model(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a digit model after a few steps."""
    folder = tmp_path_factory.mktemp("runs") / "audio_model"
    assert audio_pretrain.main([*TINY_MODEL, f"data.folder={digits}", f"run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three digits (40 to 57 samples): one for test, one for validation, four for training each."""
    names = [f"{digit}_ann_{index}.wav" for digit in (0, 4, 9) for index in (0, 5, 10, 11, 12, 13)]
    return write_clips(tmp_path_factory.mktemp("fsdd"), names, 40)


@pytest.fixture(scope="session")
def audio_run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished packed run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    packed = ["data.packed=true", "train.ema=0.9", "train.micro_tokens=100"]
    assert audio_pretrain.main([f"data.folder={clips}", f"run.dir={folder}", *TINY_AUDIO, *packed]) == 0
    return folder
