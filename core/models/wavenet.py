"""WaveNet (van den Oord et al. 2016): gated convolutions of width two, dilated by powers of two."""

from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from core.layers.embedding import TokenEmbedding, embed, pad_vocabulary
from core.models.sizes import check_sizes

WaveNetState = tuple[Tensor, ...]
"""One tensor per layer, (batch, dilation, d_model): its last inputs, oldest first."""


@dataclass(frozen=True)
class WaveNetConfig:
    """The shape of a WaveNet. Raises ValueError for a size below 1."""

    vocab_size: int = field(default=256, metadata={"help": "number of symbols"})
    d_model: int = field(default=64, metadata={"help": "channels of the residual stream"})
    d_skip: int = field(default=256, metadata={"help": "channels of the sum of the layers' outputs"})
    n_stack: int = field(default=4, metadata={"help": "number of stacks of dilated layers"})
    n_layer: int = field(default=10, metadata={"help": "layers per stack, dilated by 1, 2, 4, ..."})

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "d_model", "d_skip", "n_stack", "n_layer")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, and logits per position."""
        return pad_vocabulary(self.vocab_size)

    @property
    def dilations(self) -> list[int]:
        """Distance in positions of the two inputs of each layer."""
        return [2**layer for _ in range(self.n_stack) for layer in range(self.n_layer)]


class WaveNet(nn.Module):
    """A causal model of token sequences that sees n_stack * (2**n_layer - 1) tokens before the last one."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        layers = [
            DilatedConvolution(config.d_model, config.d_skip, dilation) for dilation in config.dilations
        ]
        layers[-1].residual = None  # no layer reads it
        self.layers = nn.ModuleList(layers)
        self.middle = nn.Linear(config.d_skip, config.d_skip)
        self.head = nn.Linear(config.d_skip, config.padded_vocab_size)

    def initial_state(self, batch_size: int) -> WaveNetState:
        """Return the state before the first token: zeros, on the model's device."""
        weight = self.embedding.weight
        return tuple(weight.new_zeros(batch_size, d, weight.shape[1]) for d in self.config.dilations)

    @overload
    def forward(self, tokens: Tensor, state: None = None) -> Tensor: ...

    @overload
    def forward(self, tokens: Tensor, state: WaveNetState) -> tuple[Tensor, WaveNetState]: ...

    def forward(
        self, tokens: Tensor, state: WaveNetState | None = None
    ) -> Tensor | tuple[Tensor, WaveNetState]:
        """Return the logits of the next token at each position.

        tokens: (batch, length), any integer dtype. Returns logits (batch, length, padded vocabulary), or
        (logits, final state) if a state is given. Raises ValueError for tokens that are not integers of two
        axes.
        """
        x = embed(self.embedding, tokens, "batch, length")
        total: Any = None
        final_state = []
        for layer, inputs in zip(self.layers, state or self.initial_state(len(tokens)), strict=True):
            x, skip, last_inputs = layer(x, inputs)
            total = skip if total is None else total + skip
            final_state.append(last_inputs)
        logits = self.head(relu(self.middle(relu(total))))
        return logits if state is None else (logits, tuple(final_state))

    @torch.no_grad()
    def step(self, token: Tensor, state: WaveNetState) -> tuple[Tensor, WaveNetState]:
        """Run one position of forward: token (batch,) -> (logits (batch, padded vocabulary), state)."""
        logits, final_state = self(token[:, None], state)
        return logits[:, 0], final_state


class DilatedConvolution(nn.Module):
    """A gated convolution of each position and the one `dilation` before it, with residual and skip."""

    def __init__(self, d_model: int, d_skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.gates = nn.Linear(2 * d_model, 2 * d_model)
        self.residual: nn.Linear | None = nn.Linear(d_model, d_model)
        self.skip = nn.Linear(d_model, d_skip)

    def forward(self, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next layer's x, the skip output and the last inputs.

        x: (batch, length, d_model). inputs: (batch, dilation, d_model), the inputs before x.
        """
        past, last = torch.cat([inputs, x], dim=1).split([x.shape[1], self.dilation], dim=1)
        value, gate = self.gates(torch.cat([past, x], dim=-1)).chunk(2, dim=-1)
        hidden = value.tanh() * gate.sigmoid()
        if self.residual is not None:
            x = x + self.residual(hidden)
        return x, self.skip(hidden), last
