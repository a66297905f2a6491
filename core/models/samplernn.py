"""SampleRNN (Mehri et al. 2017): an MLP per sample, conditioned by recurrent networks on slower clocks."""

from dataclasses import dataclass, field
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from core.layers.embedding import TokenEmbedding, embed, pad_vocabulary
from core.layers.pooling import Pooled, PooledState
from core.models.sizes import check_pools, check_sizes


@dataclass(frozen=True)
class SampleRnnConfig:
    """The shape of a SampleRnn. Raises ValueError for no pools, or a size below 1."""

    vocab_size: int = field(default=256, metadata={"help": "number of symbols"})
    d_model: int = field(default=128, metadata={"help": "channels of the samples' MLP, doubled by each tier"})
    width: int = field(default=8, metadata={"help": "number of last samples that the MLP reads"})
    pools: list[int] = field(
        default_factory=lambda: [8, 4],
        metadata={"help": "positions of each tier per position of the next, fastest tier first"},
    )

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "d_model", "width")
        check_pools(self.pools)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, and logits per position."""
        return pad_vocabulary(self.vocab_size)


class TierState(NamedTuple):
    """State of a tier: hidden (batch, channels), and the state of the slower tiers, if any."""

    hidden: Tensor
    slower: PooledState | None


class SampleRnnState(NamedTuple):
    """State of a SampleRnn.

    recent: (batch, width - 1, d_model), last embeddings, oldest first. tiers: state of the slower clocks.
    """

    recent: Tensor
    tiers: PooledState


class SampleRnn(nn.Module):
    """A causal model of token sequences.

    A tier reads whole frames and conditions the faster tier one frame later. Clocks and projections are those
    of the multi-scale model (core.layers.pooling).
    """

    def __init__(self, config: SampleRnnConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        self.tiers = _slower_tiers(config.d_model, config.pools)
        self.recent = nn.Conv1d(config.d_model, config.d_model, config.width)
        self.middle = nn.Linear(config.d_model, 2 * config.d_model)
        self.head = nn.Linear(2 * config.d_model, config.padded_vocab_size)

    def initial_state(self, batch_size: int) -> SampleRnnState:
        """Return the state before the first token: zeros, on the model's device, all clocks at phase 0."""
        recent = self.embedding.weight.new_zeros(batch_size, self.config.width - 1, self.config.d_model)
        return SampleRnnState(recent, self.tiers.initial_state(batch_size))

    @overload
    def forward(self, tokens: Tensor, state: None = None) -> Tensor: ...

    @overload
    def forward(self, tokens: Tensor, state: SampleRnnState) -> tuple[Tensor, SampleRnnState]: ...

    def forward(
        self, tokens: Tensor, state: SampleRnnState | None = None
    ) -> Tensor | tuple[Tensor, SampleRnnState]:
        """Return the logits of the next token at each position.

        tokens: (batch, length), any integer dtype. Returns logits (batch, length, padded vocabulary), or
        (logits, final state) if a state is given. Raises ValueError for tokens that are not integers of two
        axes.
        """
        x = embed(self.embedding, tokens, "batch, length")
        before, tiers = state or self.initial_state(len(tokens))
        inputs = torch.cat([before, x], dim=1)
        recent = self.recent(inputs.transpose(1, 2)).transpose(1, 2)
        slower, tiers = self.tiers(x, tiers)
        logits = self.head(relu(self.middle(relu(recent + slower))))
        return logits if state is None else (logits, SampleRnnState(inputs[:, len(x[0]) :], tiers))

    @torch.no_grad()
    def step(self, token: Tensor, state: SampleRnnState) -> tuple[Tensor, SampleRnnState]:
        """Run one position of forward: token (batch,) -> (logits (batch, padded vocabulary), state)."""
        logits, final_state = self(token[:, None], state)
        return logits[:, 0], final_state


class Tier(nn.Module):
    """A GRU over (batch, length, channels), conditioned by the slower tiers."""

    def __init__(self, channels: int, pools: list[int]) -> None:
        super().__init__()
        self.slower: Pooled | None = _slower_tiers(channels, pools) if pools else None
        self.gru = nn.GRU(channels, channels, batch_first=True)

    def initial_state(self, batch_size: int) -> TierState:
        """Return the state before the first position."""
        hidden = next(self.gru.parameters()).new_zeros(batch_size, self.gru.hidden_size)
        return TierState(hidden, None if self.slower is None else self.slower.initial_state(batch_size))

    def forward(
        self, x: Tensor, state: TierState | None = None, cu_seqlens: None = None
    ) -> tuple[Tensor, TierState | None]:
        """Return (y, final state), y shaped like x (batch, length, channels); None if no state is given.

        Sequences cannot be packed.
        """
        hidden, slower_state = state or self.initial_state(len(x))
        if self.slower is not None:
            slower, slower_state = self.slower(x, slower_state)
            x = x + slower
        y, last = self.gru(x, hidden[None])
        return y, None if state is None else TierState(last[0].to(hidden.dtype), slower_state)

    def step(self, x: Tensor, state: TierState) -> tuple[Tensor, TierState]:
        """Run one position of forward: x (batch, channels) -> (y, state)."""
        y, final_state = self(x[:, None], state)
        return y[:, 0], final_state


def _slower_tiers(channels: int, pools: list[int]) -> Pooled:
    """Return the tier of the first pool, with the slower ones inside it."""
    return Pooled(Tier(2 * channels, pools[1:]), channels, pools[0])
