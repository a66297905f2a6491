"""What every waveform pipeline starts from: packed clips with their windows, a trained model."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from audio.data.clips import SPLITS, Collection
from audio.data.digits import fsdd, sc09
from audio.data.long_audio import audio_folder
from audio.data.pack import PackedAudio, open_audio
from audio.data.quantizer import LEVELS, SILENCE, Quantizer
from audio.data.synthetic import synthetic_digits
from audio.data.waveform import RATE
from audio.data.windows import Windows, clip_windows, whole_windows
from core.checkpoints.checkpoint import CheckpointError, load_weights, read_header, resolve_checkpoint
from core.statistics import evenly_spaced_subset
from core.training import World
from pipelines.common.audio_model import AudioModel, new_model, stored_model_config

Source = Literal["synthetic", "sc09", "fsdd", "fsdd_by_speaker", "folder"]


@dataclass(frozen=True)
class AudioDataConfig:
    """Which waveforms are read, as which codes, in what pieces."""

    source: Source = field(
        default="synthetic",
        metadata={
            "help": "synthetic: digits that a program speaks; sc09: an unpacked Speech Commands archive; "
            "fsdd, fsdd_by_speaker: the Free Spoken Digit Dataset in either split; folder: any audio files"
        },
    )
    folder: str = field(
        default="data/synthetic-digits",
        metadata={"help": "where the audio files are; synthetic digits are written there once"},
    )
    sha256: str | None = field(
        default=None,
        metadata={"help": "sha256 that the clips must have in all; config.yaml keeps a run's own"},
    )
    quantizer: Literal["mulaw", "linear", "paper"] = field(
        default="mulaw",
        metadata={"help": "what a code stands for; paper: as published, for its likelihoods only"},
    )
    length: int = field(default=16_000, metadata={"help": "samples in a window; longer clips are cut"})
    keep_rest: bool = field(
        default=True, metadata={"help": "train and validate also on what is left of a clip, a shorter window"}
    )
    packed: bool = field(
        default=False,
        metadata={"help": "train on windows end to end, not padded: less is computed (unet only)"},
    )
    conditional: bool = field(
        default=False, metadata={"help": "let a sequence begin with its class, one more symbol, as its input"}
    )
    classes: list[str] = field(
        default_factory=list,
        metadata={"help": "names of the classes of a conditional model; config.yaml keeps a run's own"},
    )
    validation_windows: int | None = field(
        default=None, metadata={"help": "windows that measure held-out bits, evenly spaced; null: all"}
    )


class AudioData(NamedTuple):
    """Packed clips, and the windows of each split that has some (training always, valid, test)."""

    packed: PackedAudio
    windows: dict[str, Windows]


class AudioCheckpoint(NamedTuple):
    """A trained model, and what its codes and further symbols mean.

    quantizer: of the codes. rate: samples a second. classes: those that the model can be asked for, class k
    by the symbol 256 + k; empty for a model without condition.
    """

    model: AudioModel
    quantizer: Quantizer
    rate: int
    classes: tuple[str, ...]

    def first_symbol(self, name: str | None = None) -> int:
        """What a sequence of this class begins with: SILENCE for a model without classes.

        Raises ValueError for a class that the model does not have, or for none where it has some.
        """
        if name is None and not self.classes:
            return SILENCE
        if name not in self.classes:
            known = f"its classes are {', '.join(self.classes)}" if self.classes else "it knows no classes"
            raise ValueError(f"The model has no class {name}: {known}.")
        return LEVELS + self.classes.index(name)


def open_audio_data(config: AudioDataConfig, world: World) -> AudioData:
    """The data of a configuration; the first process packs the clips, the others wait and read its pack.

    Raises ValueError and OSError for a folder, a clip, a list, a quantizer or a length that cannot be used.
    """
    packed = world.rank_0_first(lambda: open_audio(collection(config), config.quantizer))
    if config.sha256 not in (None, packed.sha256):
        raise ValueError(
            f"{config.folder} does not hold the clips that are meant: their sha256 is {packed.sha256}, "
            f"data.sha256 is {config.sha256}. Name the folder that the run began with, or start a new run."
        )
    if config.conditional and not packed.classes:
        raise ValueError(
            f"data.conditional needs classes, but {packed.name} has none: set data.conditional=false."
        )
    cut = clip_windows if config.keep_rest else whole_windows
    held = [split for split in SPLITS if split == "train" or packed.counts[split]]
    return AudioData(packed, {split: cut(packed, split, config.length) for split in held})


def collection(config: AudioDataConfig) -> Collection:
    """The clips of a configuration; synthetic digits are spoken into the folder if it is not there."""
    if config.source == "synthetic":
        return synthetic_digits(config.folder)
    if config.source == "sc09":
        return sc09(config.folder)
    if config.source == "folder":
        return audio_folder(config.folder)
    return fsdd(config.folder, by_speaker=config.source == "fsdd_by_speaker")


def evenly_spaced(windows: Windows, count: int | None) -> Windows:
    """At most `count` of the windows, spread evenly; all for None. Raises ValueError for a count below 1."""
    chosen = evenly_spaced_subset(len(windows), count)
    kept = {field.name: getattr(windows, field.name)[chosen] for field in dataclasses.fields(windows)}
    return Windows(**kept)


def trained_model(checkpoint: Path, device: torch.device) -> AudioCheckpoint:
    """The model of a checkpoint, or of the latest one in a run folder, ready for use.

    Raises CheckpointError if there is none, it is damaged, or it is not of a model of waveforms.
    """
    path = resolve_checkpoint(checkpoint)
    stored = read_header(path).config
    try:
        shape = stored_model_config(stored.get("model", {}))
    except ValueError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be used: {error}. Name a checkpoint of audio_pretrain."
        ) from error
    model = new_model(shape).to(device)
    load_weights(path, model)
    data = stored["data"]
    return AudioCheckpoint(model.eval(), data["quantizer"], RATE, tuple(data["classes"]))


def trained_data(checkpoint: Path) -> AudioDataConfig:
    """The data that the model of a checkpoint, as trained_model takes it, was trained on."""
    return AudioDataConfig(**read_header(resolve_checkpoint(checkpoint)).config["data"])
