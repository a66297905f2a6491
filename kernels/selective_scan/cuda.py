"""The selective scan in CUDA C++ (cuda_source), for the cases that training meets; the rest is Triton's.

Memory: the forward keeps y and the state on entry to each chunk of 32 positions (N / 8 bytes an element of
x); the backward adds the gradients themselves and, where more than 512 channels share B and C, fp32 partial
sums of dB and dC (8 N bytes a position for each 512 channels).
"""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.selective_scan import cuda_plan
from kernels.selective_scan.cuda_arguments import (
    BackwardArguments,
    ForwardArguments,
    PassArguments,
    Rows,
    Shape,
)
from kernels.selective_scan.cuda_plan import CHUNK

_THREADS = 128
_FLOATS = 16  # of a state that a block scans at once
_MOST_FLOATS = 64
_FORWARD_FILES = ("types", "rows", "arithmetic", "tile", "forward", "passing")
_BACKWARD_FILES = ("backward_ends", "backward_parts", "backward")
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Inputs(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool
    initial_state: Tensor | None
    reverse: bool


def covers(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None, cu_seqlens: Tensor | None
) -> bool:
    """Say whether these kernels take the case; each condition has its reason."""
    channels = A.shape[0]
    floats = A.shape[1] * (2 if A.is_complex() else 1)
    return (
        cu_seqlens is None
        and B.dim() == C.dim() >= 4  # B and C vary over time
        and x.dtype in _TYPES
        and all(other is None or other.dtype == x.dtype for other in (dt, B, C, z))
        and channels % 8 == 0  # rows are read 16 bytes at a time
        and floats <= _MOST_FLOATS  # beyond it the work no longer shares what it stages
        and B.shape[2] == C.shape[2]
        and (B.shape[2] == 1 or channels // B.shape[2] % _channels_a_block(2) == 0)  # a block shares B and C
        and _fits(x.device, floats)
    )


@functools.cache
def _fits(device: torch.device, floats: int) -> bool:
    properties = torch.cuda.get_device_properties(device)
    needed = _backward_memory(-(-floats // _FLOATS), per=2)
    limit = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return properties.major >= 8 and limit >= needed


def new_checkpoints(x: Tensor, A: Tensor) -> Tensor:
    """Return room for the padded states on entry to every chunk but the first."""
    batch, length, channels = x.shape
    return x.new_empty(batch, max(-(-length // CHUNK) - 1, 0), channels, _padded(A), dtype=torch.float32)


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state and the checkpoints; arguments as in `kernels.selective_scan`."""
    inputs = _prepare(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reverse)
    plan = cuda_plan.plan(inputs.x, cuda_plan.FORWARD)
    shape, groups = _shape(inputs, plan), _padded(A) // _FLOATS
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    final_state = A.new_empty(len(x), *A.shape)
    checkpoints = new_checkpoints(x, A)
    arguments = _forward_arguments(inputs, shape)
    arguments.y = _rows(y)
    arguments.final_state, arguments.checkpoints = _pointer(final_state), _pointer(checkpoints)
    kernels = _kernels(inputs, plan.per)
    blocks, memory = _blocks(shape, plan.per), _forward_memory(groups, plan.per)
    if shape.segments > 1:
        ends, dt_sums = _segment_states(inputs, shape)
        arguments.ends, arguments.dt_sums = ends.data_ptr(), dt_sums.data_ptr()
        kernels.launch("scan_forward_ends", blocks, _THREADS, [arguments], memory)
        _pass(kernels, "pass_forward", inputs, shape, inputs.initial_state, ends, dt_sums)
        arguments.starts = ends.data_ptr()
    kernels.launch("scan_forward", blocks, _THREADS, [arguments], memory)
    return y, final_state, checkpoints


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, dt, A, B, C, D, z, dt_bias and initial_state, None for what is absent."""
    inputs = _prepare(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reverse)
    plan = cuda_plan.plan(inputs.x, cuda_plan.BACKWARD)
    shape, groups = _shape(inputs, plan), _padded(A) // _FLOATS
    cluster = _cluster(inputs.x.device, inputs.x.shape[2] // inputs.B.shape[2], plan.per)
    kernels = _kernels(inputs, plan.per, cluster)
    grad_y, grad_final_state = _aligned(grad_y), _contiguous(grad_final_state)
    dx, ddt = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    dz = None if z is None else torch.empty_like(dx)
    dB, dC = (torch.empty_like(B, memory_format=torch.contiguous_format) for _ in range(2))
    dinitial = (
        None
        if initial_state is None
        else torch.empty_like(initial_state, memory_format=torch.contiguous_format)
    )

    arguments = BackwardArguments(forward=_forward_arguments(inputs, shape))
    arguments.forward.checkpoints = _pointer(checkpoints)
    arguments.dy, arguments.dx, arguments.ddt, arguments.dz = map(_rows, (grad_y, dx, ddt, dz))
    arguments.final_gradient, arguments.initial_gradient = _pointer(grad_final_state), _pointer(dinitial)
    if shape.segments > 1:
        ends, dt_sums = _segment_states(inputs, shape)
        arguments.adjoint_ends, arguments.dt_sums = ends.data_ptr(), dt_sums.data_ptr()
        memory = _forward_memory(groups, plan.per)
        kernels.launch("scan_backward_ends", _blocks(shape, plan.per), _THREADS, [arguments], memory)
        _pass(kernels, "pass_backward", inputs, shape, grad_final_state, ends, dt_sums)
        arguments.adjoints = ends.data_ptr()

    across = _across(shape, plan.per)
    arguments.batch_per_block = _batch_per_block(shape, across)
    rows = -(-len(x) // arguments.batch_per_block) * shape.segments
    dA = A.new_empty(rows, *A.shape)
    dD, dbias = (x.new_empty(rows, x.shape[2], dtype=torch.float32) for _ in range(2))
    arguments.dA, arguments.dD, arguments.dbias = dA.data_ptr(), dD.data_ptr(), dbias.data_ptr()
    count = across // B.shape[2] // cluster
    parts = None
    if count > 1:
        parts = x.new_empty(count, *B.shape[:3], 2, B.shape[3:].numel(), dtype=torch.float32)
    arguments.dBC, arguments.dB, arguments.dC = _pointer(parts), dB.data_ptr(), dC.data_ptr()
    kernels.launch("scan_backward", across * rows, _THREADS, [arguments], _backward_memory(groups, plan.per))
    if parts is not None:
        tokens, width = B.shape[:3].numel(), parts.shape[-1]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (parts, dB, dC)]
        numbers = [ctypes.c_int(count), ctypes.c_int64(tokens), ctypes.c_int(width)]
        blocks = -(-tokens * 2 * width // _THREADS)
        kernels.launch("sum_parts", blocks, _THREADS, [*pointers, *numbers])
    return (
        *(dx, ddt, dA.sum(0), dB, dC),
        *(None if D is None else dD.sum(0), dz, None if dt_bias is None else dbias.sum(0), dinitial),
    )


def _prepare(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool,
) -> _Inputs:
    return _Inputs(
        x=_aligned(x),
        dt=_aligned(dt),
        A=A.contiguous(),
        B=_last_contiguous(B),
        C=_last_contiguous(C),
        D=None if D is None else D.float().contiguous(),
        z=None if z is None else _aligned(z),
        dt_bias=None if dt_bias is None else dt_bias.float().contiguous(),
        dt_softplus=dt_softplus,
        initial_state=_contiguous(initial_state),
        reverse=reverse,
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _last_contiguous(tensor: Tensor) -> Tensor:
    """Return B or C with each step's numbers side by side; steps may be apart, as slices of a product are."""
    row = tensor[:1, :1]
    return tensor if row.is_contiguous() else tensor.contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """Return rows that can be read 16 bytes at a time."""
    step = 16 // tensor.element_size()
    apart = all(stride % step == 0 for stride in tensor.stride()[:2])
    fits = tensor.stride(2) == 1 and apart and tensor.data_ptr() % 16 == 0
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


def _padded(A: Tensor) -> int:
    floats = A.shape[1] * (2 if A.is_complex() else 1)
    return -(-floats // _FLOATS) * _FLOATS


def _shape(inputs: _Inputs, plan: cuda_plan.Plan) -> Shape:
    batch, length, channels = inputs.x.shape
    chunks = -(-length // CHUNK)
    per_segment = -(-chunks // plan.segments)
    return Shape(length, batch, channels, inputs.A.shape[1], max(1, -(-chunks // per_segment)), per_segment)


def _channels_a_block(per: int) -> int:
    return _THREADS // 4 * per


def _across(shape: Shape, per: int) -> int:
    return -(-shape.channels // _channels_a_block(per))


def _forward_memory(groups: int, per: int) -> int:
    """Bytes of shared memory of a block, as ForwardShared in forward.cuh."""
    steps, values = CHUNK * (8 * per + 2) * 8, CHUNK * (8 * per + 4) * 4
    return 4 * (steps + CHUNK * 36 * 4 + (values if groups > 1 else 0))


def _backward_memory(groups: int, per: int) -> int:
    """Bytes of shared memory of a block, as BackwardShared in backward_parts.cuh."""
    steps, values = CHUNK * (8 * per + 2) * 8, CHUNK * (8 * per + 4) * 4
    runs = 8 * 32 * 4 * per * 4
    return 4 * ((steps + values) * (2 if groups > 1 else 1) + runs) + CHUNK * 64 * 4


def _blocks(shape: Shape, per: int) -> int:
    return _across(shape, per) * shape.batch * shape.segments


def _batch_per_block(shape: Shape, across: int) -> int:
    """Let a block take several short sequences, so that partial sums of dA stay few."""
    most = 2048
    return max(1, shape.batch * shape.segments * across // most) if shape.segments == 1 else 1


@functools.cache
def _cluster(device: torch.device, group_channels: int, per: int) -> int:
    """Return how many blocks sum dB and dC on chip: all of a group of channels where they are 8 or fewer."""
    if torch.cuda.get_device_capability(device) < (9, 0):
        return 1
    blocks = -(-group_channels // _channels_a_block(per))
    return max(size for size in range(1, 9) if blocks % size == 0)


class _Variant(NamedTuple):
    """What the source is compiled for; the fields in capitals are its macros."""

    backward: bool
    device: torch.device
    IO: int
    COMPLEX: int
    GROUPS: int
    PER: int
    CLUSTER: int
    HAS_D: int
    HAS_Z: int
    HAS_BIAS: int
    SOFTPLUS: int
    REVERSE: int

    def macros(self) -> dict[str, int]:
        """With how many blocks a multiprocessor is to hold at once, which bounds the registers."""
        given = {name: value for name, value in self._asdict().items() if name.isupper()}
        forward_blocks, backward_blocks = 5 if self.PER == 1 else 4, 2 if self.GROUPS > 1 else 3
        return given | {"FORWARD_BLOCKS": forward_blocks, "BACKWARD_BLOCKS": backward_blocks}

    def sources(self) -> tuple[Path, ...]:
        names = _FORWARD_FILES + (_BACKWARD_FILES if self.backward else ())
        return tuple(Path(__file__).parent / "cuda_source" / f"{name}.cuh" for name in names)


@functools.cache
def _compiled(variant: _Variant) -> nvrtc.Kernels:
    return nvrtc.load(variant.sources(), variant.device, **variant.macros())


def _kernels(inputs: _Inputs, per: int, cluster: int | None = None) -> nvrtc.Kernels:
    """The kernels of the backward, or those of the forward where no cluster is given."""
    return _compiled(
        _Variant(
            backward=cluster is not None,
            device=inputs.x.device,
            IO=_TYPES.index(inputs.x.dtype),
            COMPLEX=int(inputs.A.is_complex()),
            GROUPS=_padded(inputs.A) // _FLOATS,
            PER=per,
            CLUSTER=cluster or 1,
            HAS_D=int(inputs.D is not None),
            HAS_Z=int(inputs.z is not None),
            HAS_BIAS=int(inputs.dt_bias is not None),
            SOFTPLUS=int(inputs.dt_softplus),
            REVERSE=int(inputs.reverse),
        )
    )


def _forward_arguments(inputs: _Inputs, shape: Shape) -> ForwardArguments:
    return ForwardArguments(
        shape=shape,
        x=_rows(inputs.x),
        dt=_rows(inputs.dt),
        B=_rows(inputs.B),
        C=_rows(inputs.C),
        z=_rows(inputs.z),
        A=inputs.A.data_ptr(),
        D=_pointer(inputs.D),
        bias=_pointer(inputs.dt_bias),
        initial=_pointer(inputs.initial_state),
        group_channels=inputs.x.shape[2] // inputs.B.shape[2],
        bc_floats=inputs.B.shape[3:].numel(),
    )


def _segment_states(inputs: _Inputs, shape: Shape) -> tuple[Tensor, Tensor]:
    rows = shape.batch, shape.segments, shape.channels
    new = inputs.x.new_empty
    return new(*rows, _padded(inputs.A), dtype=torch.float32), new(rows, dtype=torch.float32)


def _pass(
    kernels: nvrtc.Kernels,
    name: str,
    inputs: _Inputs,
    shape: Shape,
    initial: Tensor | None,
    ends: Tensor,
    dt_sums: Tensor,
) -> None:
    """Turn what each segment adds into the state that each segment receives."""
    arguments = PassArguments(
        shape, inputs.A.data_ptr(), _pointer(initial), ends.data_ptr(), dt_sums.data_ptr()
    )
    numbers = shape.batch * shape.channels * _padded(inputs.A) // (2 if inputs.A.is_complex() else 1)
    kernels.launch(name, -(-numbers // _THREADS), _THREADS, [arguments])


def _rows(tensor: Tensor | None) -> Rows:
    return Rows() if tensor is None else Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()
