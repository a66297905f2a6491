"""CUDA C++ kernels of the scan: against the fp64 definition, equal to the bit, past 2^31 elements.

The tests of plans and of compilation need no GPU: a plan is arithmetic, and NVRTC compiles without one.
"""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from kernels import selective_scan
from kernels.selective_scan import cuda_plan
from kernels.selective_scan.arguments import ScanArguments
from tests.kernels.selective_scan_cases import (
    CASES,
    Arguments,
    Case,
    assert_close,
    in_double,
    make_arguments,
    outputs_and_gradients,
)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no GPU here.")
COVERED = [case for case in CASES if not (case.packed or case.constant_b or case.constant_c)]
HALF_STEP = {torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture(params=[(1, 3), (2, 1), (2, 3)], ids=lambda plan: f"per{plan[0]}x{plan[1]}")
def forced_plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    per, segments = request.param

    def forced(sizes: cuda_plan.Sizes, gpu: cuda_plan.Gpu, backward: bool) -> tuple[int, int]:
        return 2 if backward else per, segments

    monkeypatch.setattr(cuda_plan, "choose", forced)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new buffers with NaN, so that unwritten elements show."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))


def is_covered(arguments: Arguments) -> bool:
    from kernels.selective_scan import cuda

    grouped = {
        name: arguments[name] if arguments[name].dim() > 3 else arguments[name].unsqueeze(2) for name in "BC"
    }
    return cuda.covers(ScanArguments(**arguments | grouped))


@on_gpu
@pytest.mark.usefixtures("forced_plan", "poisoned")
@pytest.mark.parametrize("case", COVERED, ids=str)
def test_equals_its_definition(case: Case) -> None:
    arguments = make_arguments(case, length=101, channels=256, states=16, device="cuda")
    assert case.is_complex or is_covered(arguments)
    actual = outputs_and_gradients(selective_scan, arguments)
    assert_close(actual, outputs_and_gradients(selective_scan, in_double(arguments)), 2e-5)


@on_gpu
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", HALF_STEP, ids=str)
@pytest.mark.parametrize("states", [1, 3, 8, 16, 17, 64, 100])
@pytest.mark.parametrize("length", [1, 31, 33, 130])
def test_any_state_and_length(states: int, length: int, dtype: torch.dtype) -> None:
    case = Case("state", initial_state=True)
    arguments = make_arguments(case, length=length, channels=72, states=states, dtype=dtype, device="cuda")
    actual = outputs_and_gradients(selective_scan, arguments)
    truth = outputs_and_gradients(selective_scan, in_double(arguments))
    assert_close(actual, truth, 1.1 * HALF_STEP[dtype])


@on_gpu
def test_strided_rows_are_read_in_place() -> None:
    arguments = make_arguments(Case("mamba"), length=70, channels=128, states=16, device="cuda")
    wide = torch.cat([arguments["x"], arguments["z"]], dim=-1).detach()
    strided = arguments | {"x": wide[..., :128].requires_grad_(), "z": wide[..., 128:].requires_grad_()}
    actual, truth = (outputs_and_gradients(selective_scan, a) for a in (strided, arguments))
    assert all(torch.equal(actual[name], truth[name]) for name in truth)


@on_gpu
@pytest.mark.parametrize("is_complex", [False, True])
def test_twenty_runs_are_equal_to_the_bit(is_complex: bool) -> None:
    case = Case("all", is_complex=is_complex, initial_state=True)
    arguments = make_arguments(
        case, length=3000, channels=512, states=16, dtype=torch.bfloat16, device="cuda"
    )
    first = outputs_and_gradients(selective_scan, arguments)
    for _ in range(19):
        again = outputs_and_gradients(selective_scan, arguments)
        assert all(torch.equal(again[name], first[name]) for name in first)


@on_gpu
def test_past_2_to_the_31_elements() -> None:
    """The end of a scan with more elements than an int32 counts equals a scan of that end alone."""
    length, channels, stretch = 2**22 + 3, 520, 1000
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype, generator=generator)

    x, B, C = normal(1, length, channels), normal(1, length, 16), normal(1, length, 16)
    dt = normal(1, length, channels)
    A = -torch.rand(channels, 16, device="cuda", generator=generator) - 0.1
    arguments: Arguments = {"A": A, "dt_softplus": True, "return_final_state": True}
    leaves = [tensor.requires_grad_() for tensor in (x, dt, B, C)]
    y, final_state = selective_scan(*(x, dt, A, B, C), dt_softplus=True, return_final_state=True)
    weight = normal(1, stretch, channels)
    y[:, -stretch:].backward(weight)

    ends = [leaf.detach()[:, -stretch:].clone().requires_grad_() for leaf in leaves]
    with torch.no_grad():
        _, entering = selective_scan(
            *(leaf[:, :-stretch].contiguous() if leaf.dim() == 3 else leaf for leaf in (x, dt)),
            *(A, B[:, :-stretch].contiguous(), C[:, :-stretch].contiguous()),
            dt_softplus=True,
            return_final_state=True,
        )
    y_end, final_end = selective_scan(
        *(ends[0], ends[1], arguments["A"], ends[2], ends[3]),
        dt_softplus=True,
        initial_state=entering,
        return_final_state=True,
    )
    y_end.backward(weight)
    torch.testing.assert_close(y[:, -stretch:], y_end, rtol=2**-7, atol=1e-2)
    torch.testing.assert_close(final_state, final_end, rtol=1e-4, atol=1e-4)
    for leaf, end in zip(leaves, ends, strict=True):
        torch.testing.assert_close(leaf.grad[:, -stretch:], end.grad, rtol=2**-6, atol=2e-2)


def sizes(batch: int, length: int, channels: int, floats: int = 16) -> cuda_plan.Sizes:
    return cuda_plan.Sizes(batch, length, channels, group_channels=channels, floats=floats)


@pytest.mark.parametrize(
    ("shape", "one_segment"),
    [((1024, 1024, 256), True), ((4096, 16, 256), True), ((1, 2**20, 256), False), ((1, 1, 64), True)],
)
def test_segments_only_where_rows_are_few(shape: tuple[int, int, int], one_segment: bool) -> None:
    for plan in (cuda_plan.plan_forward, cuda_plan.plan_backward):
        assert (plan(sizes(*shape), cuda_plan.MEASURED).segments == 1) == one_segment


# Shape; (channels of a lane, segments, blocks) of the forward; (segments, blocks, cluster) of the backward.
MEASURED_PLANS = [
    ((8, 2048, 1024), (1, 1, 256), (8, 1024, 8)),
    ((8, 2048, 1536), (1, 1, 384), (5, 960, 8)),
    ((8, 2049, 1536), (1, 1, 384), (5, 960, 8)),
    ((8, 2048, 2048), (1, 1, 512), (4, 1024, 8)),
    ((1024, 1024, 256), (2, 1, 4096), (1, 2048, 4)),
    ((128, 8192, 256), (2, 1, 512), (5, 2560, 4)),
    ((8, 131072, 256), (2, 33, 1056), (57, 1824, 4)),
    ((1, 1048576, 256), (2, 132, 528), (1639, 6556, 4)),
    ((1, 1048576, 512), (2, 66, 528), (820, 6560, 8)),
    ((1, 958464, 128), (2, 263, 526), (1427, 2854, 2)),
    ((32, 16000, 256), (1, 1, 256), (20, 2560, 4)),
    ((4096, 16, 256), (2, 1, 16384), (1, 2048, 4)),
]


@pytest.mark.parametrize(("shape", "forward", "backward"), MEASURED_PLANS, ids=str)
def test_plans_on_the_measured_gpu(
    shape: tuple[int, ...], forward: tuple[int, int, int], backward: tuple[int, int, int]
) -> None:
    """The published times hold for these plans."""
    batch = shape[0]
    plan = cuda_plan.plan_forward(sizes(*shape), cuda_plan.MEASURED)
    assert (plan.per, plan.segments, plan.blocks_across * batch * plan.segments) == forward
    plan = cuda_plan.plan_backward(sizes(*shape), cuda_plan.MEASURED)
    assert (plan.segments, plan.blocks_across * plan.partial_rows, plan.cluster) == backward
    assert plan.per == 2


def test_limits_on_the_measured_gpu() -> None:
    """Shared memory and blocks of a multiprocessor, which set the registers of the compiled kernels."""
    gpu = cuda_plan.MEASURED
    actual = [
        (cuda_plan.block_memory(groups, per, backward), cuda_plan.resident_blocks(gpu, groups, per, backward))
        for groups, per, backward in [(1, 1, False), (1, 2, False), (4, 2, False), (1, 2, True), (4, 2, True)]
    ]
    assert actual == [(28672, 5), (36864, 4), (47104, 4), (69632, 3), (98304, 2)]
    assert cuda_plan.fits(gpu, 64)


A100 = cuda_plan.Gpu(108, 164 << 10, 163 << 10, (8, 0))
RTX_4090 = cuda_plan.Gpu(128, 100 << 10, 99 << 10, (8, 9))


@pytest.mark.parametrize("gpu", [A100, RTX_4090], ids=["A100", "RTX 4090"])
@pytest.mark.parametrize("shape", [(8, 2048, 1024), (1, 2**20, 256), (4096, 16, 256)], ids=str)
@pytest.mark.parametrize("floats", [16, 64])
def test_plans_of_other_gpus_fit_their_memory(
    gpu: cuda_plan.Gpu, shape: tuple[int, int, int], floats: int
) -> None:
    assert cuda_plan.fits(gpu, floats)
    for backward in (False, True):
        plan = (cuda_plan.plan_backward if backward else cuda_plan.plan_forward)(sizes(*shape, floats), gpu)
        resident = cuda_plan.resident_blocks(gpu, plan.groups, plan.per, backward)
        assert plan.block_memory <= gpu.block_shared_memory
        assert resident * (plan.block_memory + cuda_plan.RESERVED_MEMORY) <= gpu.shared_memory
        blocks = plan.blocks_across * shape[0] * plan.segments
        assert blocks >= gpu.multiprocessors, "Multiprocessors idle."
    assert plan.cluster == 1 or gpu.capability >= (9, 0)


def test_a_gpu_with_little_shared_memory_is_not_covered() -> None:
    assert not cuda_plan.fits(cuda_plan.Gpu(40, 64 << 10, 64 << 10, (7, 5)), 16)
    assert not cuda_plan.fits(RTX_4090._replace(block_shared_memory=64 << 10), 16)


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-bindings is not installed here.")
@pytest.mark.parametrize(("io", "is_complex", "groups"), [(1, 0, 1), (0, 1, 2)])
def test_compiles_without_a_gpu(io: int, is_complex: int, groups: int) -> None:
    from kernels import nvrtc
    from kernels.selective_scan import cuda

    numbers = {"IO": io, "COMPLEX": is_complex, "GROUPS": groups, "PER": 2, "CLUSTER": 4}
    numbers |= {"FORWARD_BLOCKS": 4, "BACKWARD_BLOCKS": 3 if groups == 1 else 2}
    flags = dict.fromkeys(("HAS_D", "HAS_Z", "HAS_BIAS", "SOFTPLUS", "REVERSE"), 1)
    variant = cuda._Variant(backward=True, device=torch.device("cuda", 0), **numbers, **flags)
    code = "\n".join(source.read_text() for source in variant.sources())
    macros = tuple(f"-D{name}={value}" for name, value in variant.macros().items())
    compiled = nvrtc._compile(code, ("--gpu-architecture=sm_90", "--std=c++17", *macros))
    assert compiled.startswith(b"\x7fELF")
