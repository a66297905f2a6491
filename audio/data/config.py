"""Configuration of audio data, and the packed clips and windows that it selects."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from audio.data.clips import SPLITS, Collection, audio_folder
from audio.data.digits import fsdd, sc09
from audio.data.pack import PackedAudio, open_audio
from audio.data.synthetic import synthetic_digits
from audio.data.windows import Windows, clip_windows, whole_windows
from core.training import World

Source = Literal["synthetic", "sc09", "fsdd", "fsdd_by_speaker", "folder"]


@dataclass(frozen=True)
class AudioDataConfig:
    """Source of the clips, quantizer, and windows."""

    source: Source = field(
        default="synthetic",
        metadata={
            "help": "data set; synthetic: synthesized digits; sc09: unpacked Speech Commands archive; "
            "fsdd, fsdd_by_speaker: Free Spoken Digit Dataset in either split; folder: any audio files"
        },
    )
    folder: str = field(
        default="data/synthetic-digits",
        metadata={"help": "folder of the audio files; synthetic digits are written there once"},
    )
    sha256: str | None = field(
        default=None,
        metadata={"help": "expected sha256 of all clips; config.yaml records that of the run"},
    )
    quantizer: Literal["mulaw", "linear", "paper"] = field(
        default="mulaw",
        metadata={"help": "quantizer of the samples; paper: the published one, for its likelihoods only"},
    )
    length: int = field(
        default=16_000, metadata={"help": "window length (samples); longer clips are divided"}
    )
    keep_rest: bool = field(
        default=True, metadata={"help": "keep the rest of a divided clip as a shorter window"}
    )
    packed: bool = field(
        default=False,
        metadata={"help": "concatenate training windows instead of padding them (unet only)"},
    )
    conditional: bool = field(
        default=False, metadata={"help": "give the class of a clip as the first input of its sequence"}
    )
    classes: list[str] = field(
        default_factory=list,
        metadata={"help": "class names of a conditional model; config.yaml records those of the run"},
    )
    validation_windows: int | None = field(
        default=None,
        metadata={"help": "number of evenly spaced windows for held-out bits; null: all"},
    )


class AudioData(NamedTuple):
    """Packed clips, and the windows of each split; valid and test are absent if they have no clips."""

    packed: PackedAudio
    windows: dict[str, Windows]


def open_audio_data(config: AudioDataConfig, world: World) -> AudioData:
    """Open the data of a configuration; rank 0 packs the clips if necessary, then other ranks open the pack.

    Raises ValueError and OSError for an invalid folder, clip, list, quantizer or length.
    """
    packed = world.rank_0_first(lambda: open_audio(collection(config), config.quantizer))
    if config.sha256 not in (None, packed.sha256):
        raise ValueError(
            f"{config.folder} holds other clips than expected: their sha256 is {packed.sha256}, data.sha256 "
            f"is {config.sha256}. Choose the folder of the original run, or start a new run."
        )
    if config.conditional and not packed.classes:
        raise ValueError(
            f"data.conditional needs classes, but {packed.name} has none. Set data.conditional=false."
        )
    windows_of = clip_windows if config.keep_rest else whole_windows
    splits = [split for split in SPLITS if split == "train" or packed.counts[split]]
    return AudioData(packed, {split: windows_of(packed, split, config.length) for split in splits})


def collection(config: AudioDataConfig) -> Collection:
    """Return the clips of a configuration; synthesize the digits if their folder does not exist."""
    if config.source == "synthetic":
        return synthetic_digits(config.folder)
    if config.source == "sc09":
        return sc09(config.folder)
    if config.source == "folder":
        return audio_folder(config.folder)
    return fsdd(config.folder, by_speaker=config.source == "fsdd_by_speaker")
