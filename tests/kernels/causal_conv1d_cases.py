"""Random arguments for every variant of the causal convolution."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BOUNDS = [0, 0, 1, 3, 3, 12, 37]  # packed sequences: empty, of length 1 and 2, empty, longer, and the rest


@dataclass(frozen=True)
class Case:
    """Variant of the arguments."""

    name: str
    width: int = 4
    bias: bool = True
    activation: str | None = "silu"
    initial_state: bool = False
    packed: bool = False

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("mamba"),
    Case("bare", bias=False, activation=None),
    Case("state", initial_state=True),
    Case("packed", packed=True),
    Case("packed state", packed=True, initial_state=True, bias=False),
    Case("one tap", width=1, initial_state=True),
    Case("two taps, linear", width=2, initial_state=True, packed=True, activation=None),
    Case("eight taps", width=8, initial_state=True, packed=True),
)


def make_arguments(
    case: Case,
    *,
    batch: int = 2,
    length: int = BOUNDS[-1],
    channels: int = 20,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return keyword arguments of `causal_conv1d`, float ones as leaves that require gradients.

    `dtype` is the dtype of x; other arguments are fp32, or fp64 for fp64 x. A packed case has batch 1.
    """
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int, dtype: torch.dtype = wide) -> Tensor:
        numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return numbers.to(device, dtype).requires_grad_()

    arguments: dict[str, Any] = {
        "x": normal(1 if case.packed else batch, length, channels, dtype=dtype),
        "weight": normal(channels, case.width),
        "activation": case.activation,
    }
    if case.bias:
        arguments["bias"] = normal(channels)
    if case.packed:
        bounds = [min(bound, length) for bound in BOUNDS[:-1]] + [length]
        arguments["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32, device=device)
    if case.initial_state:
        sequences = len(BOUNDS) - 1 if case.packed else batch
        arguments["initial_state"] = normal(sequences, case.width - 1, channels)
    return arguments
