"""Compile the decoding kernel with NVRTC, without a GPU; the emulator tests its results."""

import pytest

from kernels.decoding import cuda
from kernels.decoding.arguments import Sizes

SIZES = Sizes(
    CLUSTER=2,
    PARTS=8,
    STREAMS=8,
    THREADS=256,
    GROUP=4,
    AHEAD=4,
    RING=2,
    STATE=16,
    CONV=4,
    COMPLEX=1,
    PLANES=2,
    VOCABULARY=256,
    RESIDUAL_ROWS=224,
    SKIP_ROWS=896,
    OPERATIONS=45,
    WIDEST=256,
    OWN_CHANNELS=256,
    OPERAND=256,
    PROJECTED=48,
    DT_RANK=16,
)


def test_kernel_compiles_for_hopper() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    from kernels import nvrtc

    code = "\n".join(source.read_text() for source in cuda.sources())
    macros = [f"-D{name}={value}" for name, value in SIZES._asdict().items()]
    compiled = nvrtc._compile(code, ("--gpu-architecture=sm_90", "--std=c++17", *macros))
    assert b"decode" in compiled


def test_block_fits_in_shared_memory() -> None:
    small = SIZES._replace(SKIP_ROWS=1, PLANES=1)
    assert small.shared_memory() < small._replace(STREAMS=16).shared_memory() < 227 * 1024
