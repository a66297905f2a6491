"""The models that a waveform pipeline can train, chosen by a configuration."""

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audio.quantizer import LEVELS
from core.multiscale import MultiscaleModel, MultiscaleModelConfig

AudioModel = MultiscaleModel
"""Maps symbols (batch, length) to logits, by forward and by step: codes below 256, then a symbol a class."""


@dataclass
class AudioModelConfig:
    """Which model, and its shape; the groups of the kinds that are not chosen are not read."""

    kind: Literal["unet"] = field(
        default="unet", metadata={"help": "unet: Mamba blocks (or S4D) over slower and slower clocks"}
    )
    unet: MultiscaleModelConfig = field(default_factory=MultiscaleModelConfig)

    @property
    def chosen(self) -> MultiscaleModelConfig:
        """The shape of the kind that is chosen."""
        return self.unet

    def set_classes(self, classes: int) -> None:
        """Give the model a symbol for every code and for each of `classes`."""
        self.chosen.vocab_size = LEVELS + classes


def new_model(config: AudioModelConfig) -> AudioModel:
    """A new model; ValueError for a shape that cannot be."""
    return MultiscaleModel(config.unet)


def stored_model_config(stored: Any) -> AudioModelConfig:
    """What a checkpoint's header holds of its model; ValueError for that of another kind of model."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(AudioModelConfig), OmegaConf.create(stored))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"its model is not one of waveforms ({str(error).splitlines()[0]})") from error
    assert isinstance(config, AudioModelConfig)
    return config
