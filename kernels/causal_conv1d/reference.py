"""Definition of the causal depthwise convolution: any dtype, differentiable by autograd."""

import itertools

import torch
from torch import Tensor
from torch.nn.functional import silu


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y, with the shape and dtype of x, and the final state (sequences, K - 1, channels).

    Arguments as in `kernels.causal_conv1d`. Arithmetic is fp32, or fp64 for fp64 x.
    """
    channels, width = weight.shape
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    sequences = list(x) if cu_seqlens is None else _unpack(x, cu_seqlens)
    outputs, states = [], []
    for index, sequence in enumerate(sequences):
        past = x.new_zeros(width - 1, channels) if initial_state is None else initial_state[index]
        history = torch.cat([past.to(work), sequence.to(work)])
        length = len(sequence)
        taps = [weight[:, k].to(work) * history[k : k + length] for k in range(width)]
        output = torch.stack(taps).sum(0)
        if bias is not None:
            output = output + bias.to(work)
        outputs.append(silu(output) if activation == "silu" else output)
        states.append(history[length:])
    if not sequences:
        return torch.empty_like(x), x.new_empty(0, width - 1, channels)
    y = torch.stack(outputs) if cu_seqlens is None else torch.cat(outputs).unsqueeze(0)
    return y.to(x.dtype), torch.stack(states).to(x.dtype)


@torch.no_grad()
def causal_conv1d_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Return y (batch, channels) for one position and update `state` (batch, K - 1, channels) in place."""
    y, _ = causal_conv1d(x.unsqueeze(1), weight, bias, activation, state)
    push_position(state, x)
    return y.squeeze(1)


def push_position(state: Tensor, x: Tensor) -> None:
    """Drop the oldest position of `state` and append x (batch, channels), in place."""
    state.copy_(torch.cat([state, x.unsqueeze(1).to(state.dtype)], dim=1)[:, 1:])


def _unpack(x: Tensor, cu_seqlens: Tensor) -> list[Tensor]:
    bounds = cu_seqlens.tolist()
    return [x[0, start:end] for start, end in itertools.pairwise(bounds)]
