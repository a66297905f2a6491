"""SampleRNN (Mehri et al. 2017): an MLP for each sample, told by recurrent networks on slower clocks."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, relu

from core.layers.pooling import Pooled, PooledState
from core.models.sequence import embedded, padded


@dataclass
class SampleRnnConfig:
    """The shape of a SampleRnn. Raises ValueError for no pools, or a size below 1."""

    vocab_size: int = field(default=256, metadata={"help": "number of symbols"})
    d_model: int = field(
        default=128, metadata={"help": "channels of the samples' own MLP; each tier doubles them"}
    )
    width: int = field(default=8, metadata={"help": "last samples that the MLP reads"})
    pools: list[int] = field(
        default_factory=lambda: [8, 4],
        metadata={"help": "positions of each tier that are one position of the next, fastest tier first"},
    )

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.pools or min(self.pools) < 1:
            raise ValueError(f"pools is {self.pools}; it must hold at least one number, each at least 1.")

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)


class TierState(NamedTuple):
    """What a tier remembers: hidden (batch, channels), and the state of the slower tiers, if any."""

    hidden: Tensor
    slower: PooledState | None


class SampleRnnState(NamedTuple):
    """recent: (batch, width - 1, d_model), the last embeddings, oldest first. tiers: of the slower clocks."""

    recent: Tensor
    tiers: PooledState


class SampleRnn(nn.Module):
    """A causal model of token sequences: at every position, logits of the next token.

    A tier reads whole frames and tells the tier below what it made of them, one frame later. Clocks and
    projections are those of the multi-scale model (core.layers.pooling).
    """

    def __init__(self, config: SampleRnnConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.tiers = _slower(config.d_model, config.pools)
        self.recent = nn.Conv1d(config.d_model, config.d_model, config.width)
        self.middle = nn.Linear(config.d_model, 2 * config.d_model)
        self.head = nn.Linear(2 * config.d_model, config.padded_vocab_size)

    def initial_state(self, batch_size: int) -> SampleRnnState:
        """The state before the first token: zeros, on the model's device, all clocks at phase 0."""
        recent = self.embedding.weight.new_zeros(batch_size, self.config.width - 1, self.config.d_model)
        return SampleRnnState(recent, self.tiers.initial_state(batch_size))

    def forward(
        self, tokens: Tensor, state: SampleRnnState | None = None
    ) -> Tensor | tuple[Tensor, SampleRnnState]:
        """Logits of the token after each one.

        tokens: (batch, length), any integer dtype. Returns logits (batch, length, padded vocabulary), or
        (logits, the state after the tokens) when a state is given. Raises ValueError as MultiscaleModel.
        """
        x = embedded(tokens, self.embedding, "batch, length")
        before, tiers = state or self.initial_state(len(tokens))
        known = torch.cat([before, x], dim=1)
        recent = conv1d(known.transpose(1, 2), self.recent.weight, self.recent.bias).transpose(1, 2)
        told, tiers = self.tiers(x, tiers)
        logits = self.head(relu(self.middle(relu(recent + told))))
        return logits if state is None else (logits, SampleRnnState(known[:, len(x[0]) :], tiers))

    @torch.no_grad()
    def step(self, token: Tensor, state: SampleRnnState) -> tuple[Tensor, SampleRnnState]:
        """One position of forward: token (batch,) -> (logits (batch, padded vocabulary), state)."""
        logits, final_state = self(token[:, None], state)
        return logits[:, 0], final_state


class Tier(nn.Module):
    """A GRU over (batch, length, channels), told by the slower tiers what they know."""

    def __init__(self, channels: int, pools: list[int]) -> None:
        super().__init__()
        self.slower: Pooled | None = _slower(channels, pools) if pools else None
        self.gru = nn.GRU(channels, channels, batch_first=True)

    def initial_state(self, batch_size: int) -> TierState:
        """The state before the first position."""
        hidden = next(self.gru.parameters()).new_zeros(batch_size, self.gru.hidden_size)
        return TierState(hidden, None if self.slower is None else self.slower.initial_state(batch_size))

    def forward(
        self, x: Tensor, state: TierState | None = None, cu_seqlens: None = None
    ) -> tuple[Tensor, TierState | None]:
        """x (batch, length, channels) -> (y of the same shape, the state after x, or None if none is given).

        Sequences cannot be packed.
        """
        hidden, slower = state or self.initial_state(len(x))
        if self.slower is not None:
            told, slower = self.slower(x, slower)
            x = x + told
        y, last = self.gru(x, hidden[None])
        return y, None if state is None else TierState(last[0].to(hidden.dtype), slower)

    def step(self, x: Tensor, state: TierState) -> tuple[Tensor, TierState]:
        """One position of forward: x (batch, channels) -> (y, state)."""
        y, final_state = self(x[:, None], state)
        return y[:, 0], final_state


def _slower(channels: int, pools: list[int]) -> Pooled:
    """The tier of the first pool, with the others inside it."""
    return Pooled(Tier(2 * channels, pools[1:]), channels, pools[0])
