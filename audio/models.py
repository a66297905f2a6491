"""Models of waveforms: configuration, construction, and loading from a checkpoint."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audio.data.config import AudioDataConfig
from audio.data.quantizer import LEVELS, SILENCE, Quantizer
from audio.data.waveform import RATE
from core.checkpoints.checkpoint import CheckpointError, read_header, resolve_checkpoint
from core.checkpoints.loading import load_trained
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.wavenet import WaveNet, WaveNetConfig

AudioModel = MultiscaleModel | WaveNet | SampleRnn
"""Map symbols (batch, length) to logits, by forward and by step; symbol 256 + k stands for class k."""


def mamba_unet() -> MultiscaleModelConfig:
    """Return a U-Net with complex S4D at the sample rate and complex S6 on the slowest clock.

    Figure 10 of Gu and Dao 2023 recommends this combination for raw waveforms, which are smooth.
    """
    return MultiscaleModelConfig(
        outer=MixerConfig(complex=True, selective=False),
        middle=MixerConfig(complex=True, selective=False),
        centre=MixerConfig(complex=True),
    )


@dataclass(frozen=True)
class AudioModelConfig:
    """Kind of model and its shape; only the group of the configured kind has an effect."""

    kind: Literal["unet", "wavenet", "samplernn"] = field(
        default="unet",
        metadata={
            "help": "model; unet: Mamba or S4D blocks on several clocks; wavenet: dilated convolutions; "
            "samplernn: GRUs on several clocks"
        },
    )
    unet: MultiscaleModelConfig = field(default_factory=mamba_unet)
    wavenet: WaveNetConfig = field(default_factory=WaveNetConfig)
    samplernn: SampleRnnConfig = field(default_factory=SampleRnnConfig)

    def with_classes(self, classes: int) -> "AudioModelConfig":
        """Return the configuration with one symbol per code and one per class."""
        symbols = LEVELS + classes
        return replace(
            self,
            unet=replace(self.unet, vocab_size=symbols),
            wavenet=replace(self.wavenet, vocab_size=symbols),
            samplernn=replace(self.samplernn, vocab_size=symbols),
        )


class AudioCheckpoint(NamedTuple):
    """Trained model with the meaning of its symbols.

    quantizer: quantizer of the codes. rate: samples per second. classes: names of the classes; symbol
    256 + k starts a sequence of class k. Empty for an unconditional model.
    """

    model: AudioModel
    quantizer: Quantizer
    rate: int
    classes: tuple[str, ...]

    def first_symbol(self, name: str | None = None) -> int:
        """Return the first input symbol of a sequence of this class; SILENCE for an unconditional model.

        Raises ValueError for an unknown class, and for no class if the model is conditional.
        """
        if name is None and not self.classes:
            return SILENCE
        if name not in self.classes:
            known = f"Its classes are {', '.join(self.classes)}." if self.classes else "It has no classes."
            raise ValueError(f"The model has no class {name}. {known}")
        return LEVELS + self.classes.index(name)


def new_model(config: AudioModelConfig) -> AudioModel:
    """Return a new model. Raises ValueError for an invalid shape."""
    if config.kind == "wavenet":
        return WaveNet(config.wavenet)
    if config.kind == "samplernn":
        return SampleRnn(config.samplernn)
    return MultiscaleModel(config.unet)


def trained_model(checkpoint: Path, device: torch.device) -> AudioCheckpoint:
    """Load the model of a checkpoint file, or of the best checkpoint in a run folder.

    Raises CheckpointError if there is no checkpoint, it is damaged, or its model is not one of waveforms.
    """
    path = resolve_checkpoint(checkpoint)
    stored = read_header(path).config
    try:
        config = stored_model_config(stored.get("model", {}))
    except ValueError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be used: {error}. Choose a checkpoint of audio_pretrain."
        ) from error
    model = load_trained(path, lambda: new_model(config)).to(device)
    data = stored["data"]
    return AudioCheckpoint(model, data["quantizer"], RATE, tuple(data["classes"]))


def training_data_config(checkpoint: Path) -> AudioDataConfig:
    """Return the data configuration of the run that wrote a checkpoint; the path is as in trained_model."""
    return AudioDataConfig(**read_header(resolve_checkpoint(checkpoint)).config["data"])


def stored_model_config(stored: Any) -> AudioModelConfig:
    """Return the model configuration from the header of a checkpoint.

    Raises ValueError for the configuration of another kind of model.
    """
    if not isinstance(stored, dict) or "kind" not in stored:
        raise ValueError("its model is not one of waveforms")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(AudioModelConfig), OmegaConf.create(stored))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"its model has another shape ({str(error).splitlines()[0]})") from error
    assert isinstance(config, AudioModelConfig)
    return config
