"""A classifier of whole sequences: a causal backbone, pooled over positions, and a linear head."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from core.layers.plain import widen
from core.models.sequence import SequenceModel

CHUNK_TOKENS = 1 << 17
"""Tokens of a chunk, for sequences that run with carried state."""


@dataclass(frozen=True)
class HeadConfig:
    """Pooling of a sequence to one vector. Raises ValueError, naming the key, for a value out of range."""

    pooling: Literal["last", "mean"] = field(
        default="mean",
        metadata={"help": "input of the head: mean over the hidden vectors, or the last one"},
    )
    dropout: float = field(
        default=0.0, metadata={"help": "fraction of the pooled channels that a training step drops"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")


class SequenceClassifier(nn.Module):
    """A linear classifier of the pooled hidden vectors (Gu and Dao 2023, section E.3.4: the last position).

    The logits have a length axis of one, so the training loop of language models applies: targets are (batch,
    1), the class of each sequence.
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
        """Return logits (batch, 1, classes) float32 of tokens (batch, length), any integer dtype."""
        pooled = pooled_hidden(self.backbone, tokens, self.config.pooling)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.head(self.dropout((pooled - self.centre) / self.scale))[:, None]

    @torch.no_grad()
    def start_from(self, pooled: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Set the head to a linear probe, as in LP-FT (Kumar et al. 2022).

        Fine-tuning then distorts the backbone less.

        pooled: (windows, d_model), pooled hidden vectors. From now on the head standardises its inputs with
            their mean and standard deviation per channel, because hidden vectors vary little around their
            mean.
        weight (classes, d_model), bias (classes,): the probe of standardised vectors.
        """
        deviation, mean = torch.std_mean(widen(pooled), dim=0, correction=0)
        self.centre.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)


def pooled_hidden(backbone: SequenceModel, tokens: Tensor, pooling: str) -> Tensor:
    """Return the hidden vector of the last position or the mean over all positions, (batch, d_model).

    It is float32, or float64 of a float64 backbone.

    tokens: (batch, length). pooling: "last" or "mean".
    Without gradients, sequences longer than CHUNK_TOKENS run in chunks with carried state, so memory does not
    grow with the length.
    """
    if torch.is_grad_enabled() or tokens.shape[1] <= CHUNK_TOKENS:
        hidden = backbone.hidden(tokens)
        return widen(hidden[:, -1]) if pooling == "last" else hidden.mean(dim=1, dtype=_wide(hidden))
    total = last = torch.zeros((), device=tokens.device)
    for hidden in hidden_chunks(backbone, tokens):
        total, last = total + hidden.sum(dim=1, dtype=_wide(hidden)), widen(hidden[:, -1])
    return last if pooling == "last" else total / tokens.shape[1]


def hidden_chunks(backbone: SequenceModel, tokens: Tensor, size: int = CHUNK_TOKENS) -> Iterator[Tensor]:
    """Yield the hidden vectors of tokens (batch, length) in chunks: (batch, up to `size`, d_model)."""
    state = backbone.initial_state(len(tokens))
    for chunk in tokens.split(size, dim=1):
        hidden, state = backbone.hidden(chunk, state)
        yield hidden


def _wide(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)
