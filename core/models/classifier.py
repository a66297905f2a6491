"""A classifier of whole sequences: a causal backbone, pooled over positions, and a linear head."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from core.models.sequence import SequenceModel

PIECE_TOKENS = 1 << 17


@dataclass
class HeadConfig:
    """How a sequence becomes one vector. Raises ValueError, naming the key, for a value outside its range."""

    pooling: Literal["last", "mean"] = field(
        default="last", metadata={"help": "what the head reads: the last position, or the mean over all"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "share of the pooled channels that a training step leaves out"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")


class SequenceClassifier(nn.Module):
    """Maps token sequences to logits of classes (Gu and Dao 2023, section E.3.4: the last position, linear).

    The logits have a position's axis of one, so that what trains a language model trains this: targets are
    (batch, 1), the class of each sequence.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, backbone: SequenceModel, classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.register_buffer("centre", torch.zeros(backbone.config.d_model))
        self.register_buffer("scale", torch.ones(backbone.config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(backbone.config.d_model, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, length), any integer dtype -> logits (batch, 1, classes), fp32."""
        pooled = pooled_hidden(self.backbone, tokens, self.config.pooling)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.head(self.dropout((pooled - self.centre) / self.scale))[:, None]

    @torch.no_grad()
    def start_from(self, pooled: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Begin with a linear probe: fine-tuning then distorts less of what the backbone knows (LP-FT, Kumar
        et al. 2022).

        pooled: (windows, d_model) pooled hidden vectors, whose mean and deviation in each channel the head's
            inputs are scaled by from now on; those of a backbone differ little beside their mean.
        weight (classes, d_model), bias (classes,): of the probe, on vectors so scaled.
        """
        deviation, mean = torch.std_mean(pooled.float(), dim=0, correction=0)
        self.centre.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)


def pooled_hidden(backbone: SequenceModel, tokens: Tensor, pooling: str) -> Tensor:
    """tokens (batch, length) -> (batch, d_model) fp32: the last position's hidden vector, or the mean of all.

    Without gradients, sequences longer than PIECE_TOKENS run in pieces with carried state: memory does not
    grow with the length.
    """
    if torch.is_grad_enabled() or tokens.shape[1] <= PIECE_TOKENS:
        hidden = backbone.hidden(tokens)
        assert isinstance(hidden, Tensor)
        return hidden[:, -1].float() if pooling == "last" else hidden.mean(dim=1, dtype=torch.float32)
    total = last = torch.zeros((), device=tokens.device)
    for piece in hidden_pieces(backbone, tokens):
        total, last = total + piece.sum(dim=1, dtype=torch.float32), piece[:, -1].float()
    return last if pooling == "last" else total / tokens.shape[1]


def hidden_pieces(backbone: SequenceModel, tokens: Tensor, piece: int = PIECE_TOKENS) -> Iterator[Tensor]:
    """The hidden vectors of tokens (batch, length), piece after piece: (batch, up to `piece`, d_model)."""
    state = backbone.initial_state(len(tokens))
    for part in tokens.split(piece, dim=1):
        hidden, state = backbone.hidden(part, state)
        yield hidden
