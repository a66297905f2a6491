"""The models that a waveform pipeline can train, chosen by a configuration."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audio.data.quantizer import LEVELS
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.wavenet import WaveNet, WaveNetConfig

AudioModel = MultiscaleModel | WaveNet | SampleRnn
"""Maps symbols (batch, length) to logits, by forward and by step: codes below 256, then a symbol a class."""


def for_sound() -> MultiscaleModelConfig:
    """S4D next to the samples, which are smooth, and S6 on the slowest clock, both in complex numbers.

    What figure 10 of the paper (Gu and Dao 2023) recommends for raw waveforms.
    """
    return MultiscaleModelConfig(
        outer=MixerConfig(complex=True, selective=False),
        middle=MixerConfig(complex=True, selective=False),
        centre=MixerConfig(complex=True),
    )


@dataclass(frozen=True)
class AudioModelConfig:
    """Which model, and its shape; the groups of the kinds that are not chosen are not read."""

    kind: Literal["unet", "wavenet", "samplernn"] = field(
        default="unet",
        metadata={
            "help": "unet: Mamba (or S4D) over slower and slower clocks; wavenet: dilated convolutions; "
            "samplernn: GRUs on slower and slower clocks"
        },
    )
    unet: MultiscaleModelConfig = field(default_factory=for_sound)
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


def new_model(config: AudioModelConfig) -> AudioModel:
    """A new model; ValueError for a shape that cannot be."""
    if config.kind == "wavenet":
        return WaveNet(config.wavenet)
    if config.kind == "samplernn":
        return SampleRnn(config.samplernn)
    return MultiscaleModel(config.unet)


def stored_model_config(stored: Any) -> AudioModelConfig:
    """What a checkpoint's header holds of its model; ValueError for that of another kind of model."""
    if not isinstance(stored, dict) or "kind" not in stored:
        raise ValueError("its model is not one of waveforms")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(AudioModelConfig), OmegaConf.create(stored))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"its model has another shape ({str(error).splitlines()[0]})") from error
    assert isinstance(config, AudioModelConfig)
    return config
