"""The selective scan on the CPU: memory and threads around the loops that numba compiles.

Shapes and tuning are in `cpu_layout`, the division of the work in `cpu_tasks`, the recurrence in
`cpu_forward` (scan and single step) and `cpu_backward`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.layout import address
from kernels.selective_scan import cpu_backward, cpu_forward
from kernels.selective_scan.arguments import ScanArguments, ScanGradients
from kernels.selective_scan.cpu_layout import (
    BLOCK,
    CHUNK,
    FEWEST_UPDATES,
    Gradients,
    Inputs,
    Sizes,
    kind_of,
    lay_out,
    make_layout,
    make_sizes,
    sum_first_axis,
)
from kernels.selective_scan.cpu_tasks import blocks_of
from kernels.threads import run_in_ranges

__all__ = ["backward", "forward", "new_checkpoints", "step"]

_EXACT = (torch.float32, torch.complex64)


def new_checkpoints(arguments: ScanArguments) -> Tensor:
    """Return a tensor shaped like the checkpoints of `forward`."""
    batch, length, _ = arguments.x.shape
    return arguments.A.new_empty(batch, -(-length // CHUNK), *arguments.A.shape)


def forward(arguments: ScanArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state, and the checkpoints: the states on entry to each CHUNK of positions."""
    arguments = arguments.with_common_groups()
    layout = make_layout(arguments)
    sizes = make_sizes(arguments, layout)
    tensors = lay_out(arguments, layout)
    states_shape = sizes.states, sizes.parts, sizes.channels
    checkpoints = torch.empty(sizes.rows, -(-sizes.length // CHUNK), *states_shape)
    y = torch.empty(sizes.rows, sizes.length, sizes.channels)
    initial_state = tensors["initial_state"]
    if initial_state is None:
        final_state = torch.zeros(arguments.sequences, *states_shape)
    else:
        final_state = initial_state.clone()
    inputs = Inputs(*map(address, (*tensors.values(), checkpoints)))
    outputs = (y.data_ptr(), final_state.data_ptr())
    _run(cpu_forward.forward, sizes, sizes, inputs, _sequences(arguments), *outputs, layout.kind)
    return (
        layout.trim(y).to(arguments.x.dtype),
        layout.to_states(final_state),
        layout.to_checkpoints(checkpoints, arguments.A),
    )


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, arguments: ScanArguments, checkpoints: Tensor
) -> ScanGradients:
    """Return the gradients, those of parameters in fp32, from the checkpoints of `forward`."""
    B, C = arguments.B, arguments.C
    arguments = arguments.with_common_groups()
    layout = make_layout(arguments)
    sizes = make_sizes(arguments, layout)
    tensors = lay_out(arguments, layout)
    states = layout.from_checkpoints(checkpoints)
    final = None if grad_final_state is None else layout.from_states(grad_final_state)

    activation = (sizes.rows, sizes.length, sizes.channels)
    blocks = blocks_of(sizes.channels // sizes.groups)
    varying = (blocks, sizes.rows, sizes.length, sizes.groups, sizes.states, sizes.parts)
    constant = (sizes.rows, sizes.states, sizes.parts, sizes.channels)
    totals: dict[str, Tensor] = {
        "x": torch.empty(activation),
        "dt": torch.empty(activation),
        "A": torch.zeros(constant),
        "B": torch.zeros(constant) if sizes.constant_B else torch.empty(varying),
        "C": torch.zeros(constant) if sizes.constant_C else torch.empty(varying),
        "D": torch.zeros(sizes.rows, sizes.channels),
        "dt_bias": torch.zeros(sizes.rows, sizes.channels),
    }
    if arguments.z is not None:
        totals["z"] = torch.empty(activation)
    if tensors["initial_state"] is not None:
        zeros_or_final = torch.zeros_like(tensors["initial_state"]) if final is None else final.clone()
        totals["initial_state"] = zeros_or_final  # stays where a sequence is empty
    inputs = Inputs(*map(address, (*tensors.values(), states)))
    padded_grad_y = layout.pad(grad_y)
    gradients = Gradients(
        address(padded_grad_y), address(final), *(address(totals.get(name)) for name in ScanGradients._fields)
    )
    _run(cpu_backward.backward, sizes, sizes, inputs, _sequences(arguments), gradients, layout.kind)

    def channel_total(name: str) -> Tensor | None:
        absent = getattr(arguments, name) is None
        return None if absent else layout.trim(sum_first_axis(totals[name]))

    return ScanGradients(
        x=layout.trim(totals["x"]),
        dt=layout.trim(totals["dt"]),
        A=layout.to_states(sum_first_axis(totals["A"])),
        B=layout.to_weights(totals["B"], B),
        C=layout.to_weights(totals["C"], C),
        D=channel_total("D"),
        z=layout.trim(totals["z"]) if "z" in totals else None,
        dt_bias=channel_total("dt_bias"),
        initial_state=layout.to_states(totals["initial_state"]) if "initial_state" in totals else None,
    )


def step(arguments: ScanArguments) -> Tensor:
    """Return y (batch, channels) for one position and update `initial_state` in place."""
    arguments = arguments.with_common_groups()
    x, dt, A, B, C, D, z, dt_bias, dt_softplus, state, _, _ = arguments
    batch, channels = x.shape
    kind = kind_of(A)
    sizes = Sizes(
        rows=batch,
        length=1,
        channels=channels,
        states=A.shape[1],
        parts=kind.parts,
        groups=arguments.groups,
        reverse=False,
        dt_softplus=dt_softplus,
        constant_B=arguments.has_constant_b,
        constant_C=arguments.has_constant_c,
    )
    tensors = [
        tensor if tensor is None or tensor.dtype in _EXACT else tensor.float()
        for tensor in (x, dt, A, B, C, D, z, dt_bias, state, None)
    ]
    inputs = Inputs(*map(address, tensors))
    y = torch.empty(batch, channels)
    run_in_ranges(
        lambda first, last: cpu_forward.step(first, last, sizes, inputs, y.data_ptr(), kind),
        batch,
        1 + FEWEST_UPDATES // A.numel(),
    )
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _sequences(arguments: ScanArguments) -> np.ndarray:
    """Return (start, end, index) of each sequence that has positions, in the order of the scan."""
    length, cu_seqlens = arguments.x.shape[1], arguments.cu_seqlens
    if cu_seqlens is None:
        return np.array([[0, length, 0]])
    bounds = cu_seqlens.long().numpy()
    starts, ends, indices = bounds[:-1], bounds[1:], np.arange(len(bounds) - 1)
    if arguments.reverse:
        starts, ends, indices = length - ends[::-1], length - starts[::-1], indices[::-1]
    sequences = np.stack([starts, ends, indices], axis=1)
    return np.ascontiguousarray(sequences[starts < ends])


def _run(kernel: Callable[..., object], sizes: Sizes, *arguments: Any) -> None:
    """Call a compiled kernel on the tasks of a scan, spread over threads."""
    width = sizes.channels // sizes.groups
    tasks = sizes.rows * sizes.groups * blocks_of(width)
    updates = sizes.length * sizes.states * min(BLOCK, width)
    run_in_ranges(lambda first, last: kernel(first, last, *arguments), tasks, 1 + FEWEST_UPDATES // updates)
