"""Triton's compiler accepts, without a GPU, the kernels that the interpreter tests."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.causal_conv1d import triton as conv
from kernels.rms_norm import triton as norm
from kernels.selective_scan import triton as scan
from kernels.selective_scan import triton_plan
from kernels.selective_scan.arguments import ScanArguments
from tests.kernels import selective_scan_cases as scan_cases
from tests.kernels.causal_conv1d_cases import CASES, Case, make_arguments
from tests.kernels.compilation import compiling_only


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(CASES[0], torch.bfloat16), (CASES[4], torch.float32), (CASES[5], torch.float16)],
    ids=str,
)
def test_causal_conv1d(case: Case, dtype: torch.dtype) -> None:
    arguments = make_arguments(case, channels=512, dtype=dtype)
    names = ("x", "weight", "bias", "initial_state", "cu_seqlens")
    x, weight, *others = (arguments.get(name) for name in names)
    silu = case.activation == "silu"
    with torch.no_grad(), compiling_only() as compiled:
        y, final_state = conv.forward(x, weight, *others, silu, True)
        conv.backward(y, final_state, x, weight, *others, silu)
        conv.step(torch.zeros(2, case.width - 1, 512), x[:, 0], weight, others[0], silu)
    states = {"final_state_kernel", "state_backward_kernel"} if case.width > 1 else set()
    kernels = {kernel.metadata.name: kernel.asm["ptx"] for kernel in compiled}
    assert kernels.keys() == {"forward_kernel", "backward_kernel", "step_kernel"} | states
    assert "st.global.v4.b32" in kernels["forward_kernel"], "Rows are not written 16 bytes a lane."


@pytest.mark.parametrize(("channels", "dtype"), [(256, torch.bfloat16), (2560, torch.float32)])
def test_rms_norm(channels: int, dtype: torch.dtype) -> None:
    x, weight = torch.zeros(8, channels, dtype=dtype), torch.ones(channels)
    with compiling_only() as compiled:
        y, residual_out = norm.forward(x, weight, x.float(), 1e-5)
        norm.backward(y, residual_out, residual_out, weight, 1e-5, True)
    kernels = {kernel.metadata.name: kernel.asm["ptx"] for kernel in compiled}
    assert kernels.keys() == {"_forward_kernel", "_backward_kernel"}
    for ptx in kernels.values():
        assert "st.global.v4.b32" in ptx, "The residual stream is not written 16 bytes a lane."


@pytest.mark.parametrize(
    ("name", "dtype", "block"),
    [("mamba", torch.bfloat16, 4), ("complex packed state", torch.float32, 1)],
    ids=str,
)
def test_selective_scan(name: str, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The more positions in a block, the longer the compiler takes.
    monkeypatch.setattr(triton_plan, "BACKWARD", triton_plan.BACKWARD._replace(block=block))
    case = next(case for case in scan_cases.CASES if case.name == name)
    named = scan_cases.make_arguments(case, length=200, channels=64, states=16, dtype=dtype)
    arguments = ScanArguments(**named)
    if case.groups is None:
        arguments = arguments._replace(B=arguments.B.unsqueeze(2), C=arguments.C.unsqueeze(2))
    with torch.no_grad(), compiling_only() as compiled:
        y, final_state, checkpoints = scan.forward(arguments)
        scan.backward(y, final_state, arguments, checkpoints)
        first = {name: getattr(arguments, name)[:, 0].contiguous() for name in ("x", "dt", "B", "C", "z")}
        scan.step(arguments._replace(**first, initial_state=final_state[: len(y)], cu_seqlens=None))
    kernels = {kernel.metadata.name: kernel.asm["ptx"] for kernel in compiled}
    assert kernels.keys() == {
        "segment_end_kernel",
        "pass_states_kernel",
        "scan_kernel",
        "backward_kernel",
        "step_kernel",
    }
    assert not any("__local_depot" in ptx for ptx in kernels.values()), "Values do not fit into registers."
    if not case.is_complex:
        exponentials = kernels["scan_kernel"].count("ex2.approx")
        assert exponentials == 16 + 2, "A thread has other work than 16 decays, a softplus and a gate."
