"""Classifier behind the metrics: a small ResNeXt over log-mel spectrograms of one second.

Metrics are comparable only between runs of one network, so every published number carries the checksum of its
classifier.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from audio.data.mel import RANGE, log_mel
from audio.data.waveform import FULL_SCALE

WIDENING = (4, 8, 16)
"""Channels of the stages, as multiples of the channels of the first convolution."""
GROUPS = 8


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a Classifier. Raises ValueError for invalid sizes."""

    classes: int = field(default=10, metadata={"help": "number of classes"})
    width: int = field(
        default=64,
        metadata={"help": "channels of the first convolution; the number of features is 16 times this"},
    )
    blocks: int = field(default=2, metadata={"help": "number of residual blocks in each of the three stages"})

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.width < GROUPS or self.width % GROUPS:
            raise ValueError(f"width is {self.width}; it must be a multiple of {GROUPS}.")

    @property
    def features(self) -> int:
        """Number of features of a clip, the input of the last layer."""
        return self.width * WIDENING[-1]


class Classifier(nn.Module):
    """ResNeXt (Xie et al. 2017) of three stages, mean pooling, and one linear layer.

    Group normalization (Wu and He 2018) replaces batch normalization: the output for a clip is independent of
    the other clips of the batch, and any batch size and world size give the same result.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(_convolution(1, config.width, 3), _norm(config.width), nn.ReLU())
        channels = [config.width, *(config.width * factor for factor in WIDENING)]
        self.stages = nn.Sequential(
            *(
                _stage(in_channels, out_channels, config.blocks, stride)
                for in_channels, out_channels, stride in zip(channels, channels[1:], (1, 2, 2), strict=False)
            )
        )
        self.head = nn.Linear(config.features, config.classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return logits (rows, 1, classes) of waveforms (rows, CLIP), as `embed` takes them.

        The axis of length 1 fits core.training, which expects (rows, targets, classes).
        """
        return self.logits(self.embed(waveforms))[:, None]

    def embed(self, waveforms: Tensor) -> Tensor:
        """Return the pooled features (rows, features) float32 of clips at 16 kHz.

        waveforms: (rows, CLIP), floating point in [-1, 1], or 16-bit integers.
        """
        if not waveforms.is_floating_point():
            waveforms = waveforms.float() / FULL_SCALE
        spectrograms = log_mel(waveforms)[:, None] / (RANGE / 2) + 1
        return self.stages(self.stem(spectrograms)).float().mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (rows, classes) float32 of features (rows, features)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())


class ResidualBlock(nn.Module):
    """Bottleneck of 1 x 1, grouped 3 x 3 and 1 x 1 convolutions, with a shortcut.

    Maps (rows, in_channels, h, w) to (rows, out_channels, h / stride, w / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 2
        self.branch = nn.Sequential(
            _convolution(in_channels, inner, 1),
            _norm(inner),
            nn.ReLU(),
            _convolution(inner, inner, 3, stride, groups=GROUPS),
            _norm(inner),
            nn.ReLU(),
            _convolution(inner, out_channels, 1),
            _norm(out_channels),
        )
        is_same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if is_same else _convolution(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.branch(x))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (ResidualBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(in_channels, out_channels, stride), *rest)


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)
