"""The selective scan in CUDA C++ for the cases of training; Triton takes all others (see `covers`).

This module allocates memory and launches kernels. Shapes and tuning are in `cuda_plan`, the structs that the
kernels receive in `cuda_structs`, the recurrence in `cuda_source/arithmetic.cuh`.

Memory: the forward keeps y and the state on entry to each chunk of 32 positions (N / 8 bytes per element of
x). The backward adds the gradients and, where more than 512 channels share B and C, fp32 partial sums of dB
and dC (8 N bytes per position for each 512 channels).
"""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.selective_scan import cuda_plan
from kernels.selective_scan.arguments import ScanArguments, ScanGradients
from kernels.selective_scan.cuda_plan import CHUNK, THREADS, Plan, gpu_of, resident_blocks, sizes_of
from kernels.selective_scan.cuda_structs import (
    BackwardArguments,
    ForwardArguments,
    PassArguments,
    Rows,
    Shape,
)

_FORWARD_FILES = ("types", "rows", "arithmetic", "tile", "forward", "passing")
_BACKWARD_FILES = ("backward_ends", "backward_parts", "backward")
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def covers(arguments: ScanArguments) -> bool:
    """Return whether these kernels take the case."""
    x, dt, A, B, C, z = (getattr(arguments, name) for name in ("x", "dt", "A", "B", "C", "z"))
    channels = len(A)
    floats = A.shape[1] * arguments.parts
    return (
        arguments.cu_seqlens is None
        and B.dim() == C.dim() >= 4  # B and C vary over time
        and x.dtype in _TYPES
        and all(other is None or other.dtype == x.dtype for other in (dt, B, C, z))
        and channels % 8 == 0  # the kernels read rows 16 bytes at a time
        and floats <= cuda_plan.MAX_FLOATS
        and B.shape[2] == C.shape[2]
        # All channels of a block share B and C.
        and (B.shape[2] == 1 or channels // B.shape[2] % cuda_plan.channels_per_block(per=2) == 0)
        and cuda_plan.fits(gpu_of(x.device), floats)
    )


def new_checkpoints(arguments: ScanArguments) -> Tensor:
    """Return room for the padded fp32 states on entry to every chunk but the first."""
    x, sizes = arguments.x, sizes_of(arguments)
    chunks = max(-(-sizes.length // CHUNK) - 1, 0)
    return x.new_empty(sizes.batch, chunks, sizes.channels, sizes.padded_floats, dtype=torch.float32)


def forward(arguments: ScanArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state and the checkpoints."""
    arguments = _prepare(arguments)
    x, A = arguments.x, arguments.A
    plan = cuda_plan.plan_forward(sizes_of(arguments), gpu_of(x.device))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    final_state = A.new_empty(len(x), *A.shape)
    checkpoints = new_checkpoints(arguments)
    struct = _forward_struct(arguments, plan)
    struct.y = _rows(y)
    struct.final_state, struct.checkpoints = _pointer(final_state), _pointer(checkpoints)
    kernels = _kernels(arguments, plan, backward=False)
    blocks = plan.blocks_across * len(x) * plan.segments
    if plan.segments > 1:
        ends, dt_sums = _new_segment_states(arguments, plan)
        struct.ends, struct.dt_sums = ends.data_ptr(), dt_sums.data_ptr()
        kernels.launch("scan_forward_ends", blocks, THREADS, [struct], plan.block_memory)
        _pass_states(kernels, "pass_forward", arguments, plan, arguments.initial_state, ends, dt_sums)
        struct.starts = ends.data_ptr()
    kernels.launch("scan_forward", blocks, THREADS, [struct], plan.block_memory)
    return y, final_state, checkpoints


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, arguments: ScanArguments, checkpoints: Tensor
) -> ScanGradients:
    """Return the gradients, those of A, D and dt_bias in fp32."""
    arguments = _prepare(arguments)
    x, A, B, C, D, z = (getattr(arguments, name) for name in ("x", "A", "B", "C", "D", "z"))
    plan = cuda_plan.plan_backward(sizes_of(arguments), gpu_of(x.device))
    kernels = _kernels(arguments, plan, backward=True)
    grad_y = _aligned(grad_y)
    final_gradient = None if grad_final_state is None else grad_final_state.contiguous()
    dx, ddt, dB, dC = (_new_like(tensor) for tensor in (x, arguments.dt, B, C))
    dz = None if z is None else _new_like(z)
    initial_gradient = None if arguments.initial_state is None else _new_like(arguments.initial_state)

    struct = BackwardArguments(forward=_forward_struct(arguments, plan))
    struct.forward.checkpoints = _pointer(checkpoints)
    struct.dy, struct.dx, struct.ddt, struct.dz = map(_rows, (grad_y, dx, ddt, dz))
    struct.final_gradient, struct.initial_gradient = _pointer(final_gradient), _pointer(initial_gradient)
    if plan.segments > 1:
        ends, dt_sums = _new_segment_states(arguments, plan)
        struct.adjoint_ends, struct.dt_sums = ends.data_ptr(), dt_sums.data_ptr()
        blocks = plan.blocks_across * len(x) * plan.segments
        memory = cuda_plan.block_memory(plan.groups, plan.per, backward=False)
        kernels.launch("scan_backward_ends", blocks, THREADS, [struct], memory)
        _pass_states(kernels, "pass_backward", arguments, plan, final_gradient, ends, dt_sums)
        struct.adjoints = ends.data_ptr()

    dA = A.new_empty(plan.partial_rows, *A.shape)
    dD, dbias = (x.new_empty(plan.partial_rows, x.shape[2], dtype=torch.float32) for _ in range(2))
    struct.batch_per_block = plan.batch_per_block
    struct.dA, struct.dD, struct.dbias = dA.data_ptr(), dD.data_ptr(), dbias.data_ptr()
    partial = None
    if plan.partial_sums > 1:
        width = B.shape[3:].numel()
        partial = x.new_empty(plan.partial_sums, *B.shape[:3], 2, width, dtype=torch.float32)
    struct.dBC, struct.dB, struct.dC = _pointer(partial), dB.data_ptr(), dC.data_ptr()
    blocks = plan.blocks_across * plan.partial_rows
    kernels.launch("scan_backward", blocks, THREADS, [struct], plan.block_memory)
    if partial is not None:
        _sum_partial(kernels, partial, dB, dC)
    return ScanGradients(
        x=dx,
        dt=ddt,
        A=dA.sum(0),
        B=dB,
        C=dC,
        D=None if D is None else dD.sum(0),
        z=dz,
        dt_bias=None if arguments.dt_bias is None else dbias.sum(0),
        initial_state=initial_gradient,
    )


def _prepare(arguments: ScanArguments) -> ScanArguments:
    """Return the same arguments with the strides and dtypes that the kernels read."""
    D, z, dt_bias, initial_state = (
        getattr(arguments, name) for name in ("D", "z", "dt_bias", "initial_state")
    )
    return arguments._replace(
        x=_aligned(arguments.x),
        dt=_aligned(arguments.dt),
        A=arguments.A.contiguous(),
        B=_contiguous_steps(arguments.B),
        C=_contiguous_steps(arguments.C),
        D=None if D is None else D.float().contiguous(),
        z=None if z is None else _aligned(z),
        dt_bias=None if dt_bias is None else dt_bias.float().contiguous(),
        initial_state=None if initial_state is None else initial_state.contiguous(),
    )


def _contiguous_steps(weights: Tensor) -> Tensor:
    """Return B or C with the numbers of each position contiguous.

    Positions may be apart in memory, as in a slice of a projection.
    """
    return weights if weights[:1, :1].is_contiguous() else weights.contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """Return (batch, length, channels) such that each row can be read 16 bytes at a time."""
    step = 16 // tensor.element_size()
    aligned_rows = all(stride % step == 0 for stride in tensor.stride()[:2])
    fits = tensor.stride(2) == 1 and aligned_rows and tensor.data_ptr() % 16 == 0
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


def _new_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


class _Variant(NamedTuple):
    """Compiled variant of the source; the fields in capitals are its macros (see types.cuh)."""

    backward: bool
    device: torch.device
    IO: int
    COMPLEX: int
    GROUPS: int
    PER: int
    CLUSTER: int
    FORWARD_BLOCKS: int
    BACKWARD_BLOCKS: int
    HAS_D: int
    HAS_Z: int
    HAS_BIAS: int
    SOFTPLUS: int
    REVERSE: int

    def macros(self) -> dict[str, int]:
        """Return the macros of the source."""
        return {name: value for name, value in self._asdict().items() if name.isupper()}

    def sources(self) -> tuple[Path, ...]:
        """Return the source files in the order in which they are compiled as one."""
        names = _FORWARD_FILES + (_BACKWARD_FILES if self.backward else ())
        return tuple(Path(__file__).parent / "cuda_source" / f"{name}.cuh" for name in names)


@functools.cache
def _compiled(variant: _Variant) -> nvrtc.Kernels:
    return nvrtc.load(variant.sources(), variant.device, **variant.macros())


def _kernels(arguments: ScanArguments, plan: Plan, backward: bool) -> nvrtc.Kernels:
    """Return the compiled kernels of a pass."""
    gpu = gpu_of(arguments.x.device)
    return _compiled(
        _Variant(
            backward=backward,
            device=arguments.x.device,
            IO=_TYPES.index(arguments.x.dtype),
            COMPLEX=int(arguments.A.is_complex()),
            GROUPS=plan.groups,
            PER=plan.per,
            CLUSTER=plan.cluster,
            FORWARD_BLOCKS=resident_blocks(gpu, plan.groups, plan.per, backward=False),
            BACKWARD_BLOCKS=resident_blocks(gpu, plan.groups, plan.per, backward=True),
            HAS_D=int(arguments.D is not None),
            HAS_Z=int(arguments.z is not None),
            HAS_BIAS=int(arguments.dt_bias is not None),
            SOFTPLUS=int(arguments.dt_softplus),
            REVERSE=int(arguments.reverse),
        )
    )


def _shape(arguments: ScanArguments, plan: Plan) -> Shape:
    batch, length, channels = arguments.x.shape
    return Shape(
        length=length,
        batch=batch,
        channels=channels,
        state=arguments.A.shape[1],
        segments=plan.segments,
        chunks_per_segment=plan.chunks_per_segment,
    )


def _forward_struct(arguments: ScanArguments, plan: Plan) -> ForwardArguments:
    """Return the struct of the inputs; the caller adds the outputs."""
    return ForwardArguments(
        shape=_shape(arguments, plan),
        x=_rows(arguments.x),
        dt=_rows(arguments.dt),
        B=_rows(arguments.B),
        C=_rows(arguments.C),
        z=_rows(arguments.z),
        A=arguments.A.data_ptr(),
        D=_pointer(arguments.D),
        bias=_pointer(arguments.dt_bias),
        initial=_pointer(arguments.initial_state),
        group_channels=arguments.x.shape[2] // arguments.B.shape[2],
        bc_floats=arguments.B.shape[3:].numel(),
    )


def _new_segment_states(arguments: ScanArguments, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return room for the padded states and for the sums of dt of all segments."""
    batch, _, channels = arguments.x.shape
    rows = batch, plan.segments, channels
    new = arguments.x.new_empty
    states = new(*rows, plan.groups * cuda_plan.GROUP_FLOATS, dtype=torch.float32)
    return states, new(rows, dtype=torch.float32)


def _pass_states(
    kernels: nvrtc.Kernels,
    name: str,
    arguments: ScanArguments,
    plan: Plan,
    initial: Tensor | None,
    ends: Tensor,
    dt_sums: Tensor,
) -> None:
    """Replace the states that leave segments scanned from zero by the states that enter the segments."""
    A = arguments.A
    struct = PassArguments(
        _shape(arguments, plan), A.data_ptr(), _pointer(initial), ends.data_ptr(), dt_sums.data_ptr()
    )
    batch, _, channels = arguments.x.shape
    numbers = batch * channels * plan.groups * cuda_plan.GROUP_FLOATS // arguments.parts
    kernels.launch(name, -(-numbers // THREADS), THREADS, [struct])


def _sum_partial(kernels: nvrtc.Kernels, partial: Tensor, dB: Tensor, dC: Tensor) -> None:
    """Write dB and dC as the sums of their partial sums over clusters of channels."""
    count, width, tokens = len(partial), partial.shape[-1], dB.shape[:3].numel()
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (partial, dB, dC)]
    numbers = [ctypes.c_int(count), ctypes.c_int64(tokens), ctypes.c_int(width)]
    kernels.launch("sum_parts", -(-tokens * 2 * width // THREADS), THREADS, [*pointers, *numbers])


def _rows(tensor: Tensor | None) -> Rows:
    return Rows() if tensor is None else Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()
