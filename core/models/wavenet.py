"""WaveNet (van den Oord et al. 2016): gated convolutions of width two, dilated by growing powers of two."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from core.models.sequence import embedded, padded


@dataclass
class WaveNetConfig:
    """The shape of a WaveNet. Raises ValueError for a size below 1."""

    vocab_size: int = field(default=256, metadata={"help": "number of symbols"})
    d_model: int = field(default=64, metadata={"help": "channels of the residual stream"})
    d_skip: int = field(default=256, metadata={"help": "channels in which the layers' outputs are summed"})
    n_stack: int = field(default=4, metadata={"help": "times that the dilations are gone through"})
    n_layer: int = field(default=10, metadata={"help": "layers of a stack, dilated by 1, 2, 4, ..."})

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_skip", "n_stack", "n_layer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)

    @property
    def dilations(self) -> list[int]:
        return [2**layer for _ in range(self.n_stack) for layer in range(self.n_layer)]


class WaveNet(nn.Module):
    """A causal model of token sequences: at every position, logits of the next token.

    It sees n_stack * (2**n_layer - 1) tokens before the last one. The state is a tuple of a tensor a layer,
    (batch, dilation, d_model): its last inputs, oldest first.
    """

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        layers = [Dilated(config.d_model, config.d_skip, dilation) for dilation in config.dilations]
        layers[-1].residual = None  # nobody would read it
        self.layers = nn.ModuleList(layers)
        self.middle = nn.Linear(config.d_skip, config.d_skip)
        self.head = nn.Linear(config.d_skip, config.padded_vocab_size)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """The state before the first token: zeros, on the model's device."""
        weight = self.embedding.weight
        return tuple(weight.new_zeros(batch_size, d, weight.shape[1]) for d in self.config.dilations)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of the token after each one.

        tokens: (batch, length), any integer dtype. Returns logits (batch, length, padded vocabulary), or
        (logits, the state after the tokens) when a state is given. Raises ValueError as MultiscaleModel.
        """
        x = embedded(tokens, self.embedding, "batch, length")
        total: Tensor | None = None
        final_state = []
        for layer, inputs in zip(self.layers, state or self.initial_state(len(tokens)), strict=True):
            x, skip, after = layer(x, inputs)
            total = skip if total is None else total + skip
            final_state.append(after)
        assert total is not None
        logits = self.head(relu(self.middle(relu(total))))
        return logits if state is None else (logits, tuple(final_state))

    @torch.no_grad()
    def step(self, token: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One position of forward: token (batch,) -> (logits (batch, padded vocabulary), state)."""
        logits, final_state = self(token[:, None], state)
        return logits[:, 0], final_state


class Dilated(nn.Module):
    """A gated convolution of each position and the one `dilation` before it, with residual and skip."""

    def __init__(self, d_model: int, d_skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.gates = nn.Linear(2 * d_model, 2 * d_model)
        self.residual: nn.Linear | None = nn.Linear(d_model, d_model)
        self.skip = nn.Linear(d_model, d_skip)

    def forward(self, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, length, d_model), inputs before it (batch, dilation, d_model) -> x, skip, last inputs."""
        known = torch.cat([inputs, x], dim=1)
        past, last = known.split([x.shape[1], self.dilation], dim=1)
        value, gate = self.gates(torch.cat([past, x], dim=-1)).chunk(2, dim=-1)
        hidden = value.tanh() * gate.sigmoid()
        if self.residual is not None:
            x = x + self.residual(hidden)
        return x, self.skip(hidden), last
