"""The classifier behind the metrics: a small ResNeXt over log-mel spectrograms of one second.

Two networks that agree on a metric's digits must be the same network: whoever publishes a number publishes
the classifier's checksum with it.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from audio.data.waveform import FULL_SCALE
from audio.evaluation.mel import RANGE, log_mel

WIDENING = (4, 8, 16)
"""Channels of the stages, as multiples of the first convolution's."""
GROUPS = 8


@dataclass
class ClassifierConfig:
    """The shape of a Classifier. Raises ValueError for sizes that cannot be."""

    classes: int = field(default=10, metadata={"help": "how many classes there are"})
    width: int = field(
        default=64,
        metadata={"help": "channels of the first convolution; the features are 16 times as many"},
    )
    blocks: int = field(default=2, metadata={"help": "residual blocks in each of the three stages"})

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.width < GROUPS or self.width % GROUPS:
            raise ValueError(f"width is {self.width}; it must be a multiple of {GROUPS}.")

    @property
    def features(self) -> int:
        """How many numbers the classifier makes of a clip before it decides."""
        return self.width * WIDENING[-1]


class Classifier(nn.Module):
    """A ResNeXt (Xie et al. 2017) of three stages, mean pooled, and one linear layer.

    Group normalisation (Wu and He 2018) in place of batch normalisation: what a clip gives does not depend on
    the clips beside it, so that any batch and any number of processes give the same.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(_convolution(1, config.width, 3), _norm(config.width), nn.ReLU())
        channels = [config.width, *(config.width * factor for factor in WIDENING)]
        self.stages = nn.Sequential(
            *(
                _stage(before, after, config.blocks, stride)
                for before, after, stride in zip(channels, channels[1:], (1, 2, 2), strict=False)
            )
        )
        self.head = nn.Linear(config.features, config.classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Logits (rows, 1, classes) of waveforms (rows, CLIP), as `embed` takes them.

        The axis of length 1 makes it a model that core.training trains: one target a row.
        """
        return self.logits(self.embed(waveforms))[:, None]

    def embed(self, waveforms: Tensor) -> Tensor:
        """The pooled features (rows, features) float32 of clips at 16 kHz.

        waveforms: (rows, CLIP), floating point in [-1, 1], or 16-bit integers.
        """
        if not waveforms.is_floating_point():
            waveforms = waveforms.float() / FULL_SCALE
        picture = log_mel(waveforms)[:, None] / (RANGE / 2) + 1
        return self.stages(self.stem(picture)).float().mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """The logits (rows, classes) float32 of features (rows, features)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())


class ResidualBlock(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions beside a shortcut; (rows, before, h, w) to
    (rows, after, h / stride, w / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        inner = after // 2
        self.branch = nn.Sequential(
            _convolution(before, inner, 1),
            _norm(inner),
            nn.ReLU(),
            _convolution(inner, inner, 3, stride, groups=GROUPS),
            _norm(inner),
            nn.ReLU(),
            _convolution(inner, after, 1),
            _norm(after),
        )
        is_same = before == after and stride == 1
        self.shortcut = nn.Identity() if is_same else _convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.branch(x))


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (ResidualBlock(after, after, 1) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(before, after, stride), *rest)


def _convolution(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)
