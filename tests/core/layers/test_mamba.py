"""Mamba: initialisation; forward, step, chunks and packing are one function."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from core.layers.block import Block
from core.layers.mamba import Mamba, MambaState
from core.training.optimizer import has_weight_decay

VARIANTS = {
    "real": {},
    "complex": {"complex": True},
    "time-invariant": {"selective": False},
    "complex time-invariant": {"complex": True, "selective": False},
    "selective dt": {"selective": ("dt",)},
    "complex selective B and C": {"complex": True, "selective": ("B", "C")},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
D_MODEL, LENGTH = 8, 13


def mixer_of(options: dict, d_model: int = D_MODEL) -> Mamba:
    torch.manual_seed(1)
    return Mamba(d_model, d_state=6, **options)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_same_state(state: MambaState, expected: MambaState) -> None:
    for part, expected_part in zip(state, expected, strict=True):
        torch.testing.assert_close(part, expected_part, rtol=1e-5, atol=1e-5)


def run_chunked(mixer: Mamba, x: Tensor, cuts: list[int]) -> tuple[Tensor, MambaState]:
    """Run forward on the chunks between cuts; chunks of one position use step."""
    state, outputs = mixer.initial_state(len(x)), []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        if end - start == 1:
            y, state = mixer.step(x[:, start], state)
            y = y[:, None]
        else:
            y, state = mixer(x[:, start:end], state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@every_variant
def test_step_is_forward(options: dict) -> None:
    mixer, x = mixer_of(options), inputs(2, LENGTH, D_MODEL)
    y, state = mixer(x, mixer.initial_state(2))
    stepped, stepped_state = run_chunked(mixer, x, list(range(1, LENGTH)))
    torch.testing.assert_close(mixer(x), y, rtol=0, atol=0)
    torch.testing.assert_close(stepped, y, rtol=1e-5, atol=1e-5)
    assert_same_state(stepped_state, state)


@every_variant
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=6).map(sorted))
def test_any_chunks_equal_the_whole(options: dict, cuts: list[int]) -> None:
    mixer, x = mixer_of(options), inputs(2, LENGTH, D_MODEL)
    y, state = mixer(x, mixer.initial_state(2))
    chunked, chunked_state = run_chunked(mixer, x, cuts)
    torch.testing.assert_close(chunked, y, rtol=1e-5, atol=1e-5)
    assert_same_state(chunked_state, state)


@every_variant
def test_step_is_forward_when_the_batch_is_as_wide_as_the_channels(options: dict) -> None:
    mixer = mixer_of(options)
    x = inputs(mixer.d_inner, 3, D_MODEL)
    stepped, _ = run_chunked(mixer, x, [1, 2])
    torch.testing.assert_close(stepped, mixer(x), rtol=1e-5, atol=1e-5)


@every_variant
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any))
def test_packed_is_separate(options: dict, lengths: list[int]) -> None:
    mixer, x = mixer_of(options), inputs(1, sum(lengths), D_MODEL)
    start = MambaState(*(torch.randn_like(part) for part in mixer.initial_state(len(lengths))))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    packed, packed_state = mixer(x, start, cu_seqlens)
    outputs, states = [], []
    for row, sequence in enumerate(x.split(lengths, dim=1)):
        y, state = mixer(sequence, MambaState(*(part[row : row + 1] for part in start)))
        outputs.append(y)
        states.append(state)
    torch.testing.assert_close(packed, torch.cat(outputs, dim=1), rtol=1e-5, atol=1e-5)
    assert_same_state(packed_state, MambaState(*(torch.cat(parts) for parts in zip(*states, strict=True))))


@every_variant
def test_gradients_flow_through_the_state(options: dict) -> None:
    mixer, x = mixer_of(options), inputs(2, LENGTH, D_MODEL).requires_grad_()
    leaves = [x, *mixer.parameters()]
    expected = torch.autograd.grad(mixer(x).square().sum(), leaves)
    first, state = mixer(x[:, :5], mixer.initial_state(2))
    second, _ = mixer(x[:, 5:], state)
    gradients = torch.autograd.grad(first.square().sum() + second.square().sum(), leaves)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_complex", [False, True])
def test_time_invariant_mixer_is_a_convolution(is_complex: bool) -> None:
    """y = (K * u + D u) silu(z), with K_k = dt C exp(dt A k) B of each channel, in fp64."""
    mixer, x = mixer_of({"complex": is_complex, "selective": False}), inputs(2, LENGTH, D_MODEL)
    u, z = mixer.in_proj(x).chunk(2, dim=-1)
    u = silu(mixer.conv1d(u.mT)[..., :LENGTH]).double()
    A = -mixer.A_log.double().exp()
    B, C = mixer.B.double(), mixer.C.double()
    if is_complex:
        A, B, C = torch.complex(A, mixer.A_imag.double()), torch.view_as_complex(B), torch.view_as_complex(C)
    dt = softplus(mixer.dt_bias.double())[:, None]
    powers = torch.exp((dt * A)[..., None] * torch.arange(LENGTH))
    kernel = torch.einsum("dn,dn,dnk->dk", C, dt * B, powers)
    kernel = 2 * kernel.real if is_complex else kernel
    convolved = conv1d(u, kernel.flip(-1)[:, None], padding=LENGTH - 1, groups=mixer.d_inner)[..., :LENGTH]
    y = (convolved + mixer.D.double()[:, None] * u).mT * silu(z.double())
    torch.testing.assert_close(mixer(x), mixer.out_proj(y.float()), rtol=1e-5, atol=1e-5)


@every_variant
def test_only_selected_parameters_depend_on_the_input(options: dict) -> None:
    mixer = mixer_of(options)
    u = inputs(1, LENGTH, mixer.d_inner)
    before, after = mixer._scan_inputs(u), mixer._scan_inputs(2 * u)
    followed = {name for name in before if not torch.equal(before[name], after[name])}
    selective = options.get("selective", True)
    assert followed == ({"dt", "B", "C"} if selective is True else set(selective or ()))


def test_autocast_is_within_rounding_of_fp32() -> None:
    for options in VARIANTS.values():
        mixer, x = mixer_of(options, 32), inputs(2, 64, 32)
        expected, expected_state = mixer(x, mixer.initial_state(2))
        with torch.autocast("cpu", torch.bfloat16):
            y, state = mixer(x, mixer.initial_state(2))
            stepped, _ = mixer.step(x[:, 0], mixer.initial_state(2))
        assert y.dtype == stepped.dtype == torch.bfloat16
        assert state.ssm.dtype == expected_state.ssm.dtype
        for value, reference in ((y, expected), (stepped, expected[:, 0]), (state.ssm, expected_state.ssm)):
            assert (value.to(reference.dtype) - reference).abs().max() < 0.03 * reference.abs().max()


def test_autocast_gradients_are_within_rounding_of_fp32() -> None:
    mixer, x = mixer_of({}, 32), inputs(2, 64, 32)
    expected = torch.autograd.grad(mixer(x).square().mean(), list(mixer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    gradients = torch.autograd.grad(y.float().square().mean(), list(mixer.parameters()))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).norm() < 0.03 * reference.norm()


@pytest.mark.parametrize("options", [{}, {"complex": True, "selective": False}])
def test_block_compiles_without_a_graph_break(options: dict) -> None:
    block = Block(D_MODEL, mixer_of(options))
    hidden, residual = inputs(2, 5, D_MODEL), inputs(2, 5, D_MODEL)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    outputs, expected = compiled(hidden, residual), block(hidden, residual)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    parameters = list(block.parameters())
    gradients, expected_gradients = (
        torch.autograd.grad(pair[0].sum() + pair[1].square().sum(), parameters)
        for pair in (outputs, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_initialisation_is_the_published_one() -> None:
    mixer = Mamba(256)
    shapes = {name: tuple(parameter.shape) for name, parameter in mixer.named_parameters()}
    assert shapes == {
        "in_proj.weight": (1024, 256),
        "conv1d.weight": (512, 1, 4),
        "conv1d.bias": (512,),
        "x_proj.weight": (48, 512),
        "dt_proj.weight": (512, 16),
        "dt_proj.bias": (512,),
        "A_log": (512, 16),
        "D": (512,),
        "out_proj.weight": (256, 512),
    }
    assert torch.equal(mixer.A_log.exp().round(), torch.arange(1.0, 17).expand(512, 16))
    assert torch.equal(mixer.D, torch.ones(512))
    assert mixer.dt_proj.weight.abs().max() <= 0.25
    assert mixer.dt_proj.weight.std().item() == pytest.approx(0.25 / math.sqrt(3), rel=0.05)
    log_dt = softplus(mixer.dt_proj.bias).log()
    assert math.log(1e-3) - 1e-4 <= log_dt.min() < math.log(1.1e-3)
    assert math.log(0.09) < log_dt.max() <= math.log(0.1) + 1e-4
    assert log_dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.3)
    assert log_dt.std().item() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.1)


def test_complex_initialisation_is_s4d_lin() -> None:
    mixer, real = Mamba(64, complex=True), Mamba(64)
    assert torch.equal(mixer.A_imag, torch.arange(8.0).expand(128, 8))
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((128, 8), -0.5))
    assert mixer.initial_state(3).ssm.dtype == torch.complex64
    assert sum(p.numel() for p in mixer.parameters()) == sum(p.numel() for p in real.parameters())


@every_variant
def test_state_space_constants_have_no_weight_decay(options: dict) -> None:
    parameters = dict(mixer_of(options).named_parameters())
    without = {name for name, parameter in parameters.items() if not has_weight_decay(name, parameter)}
    constant = {"A_log", "A_imag", "B", "C", "D", "dt_bias", "conv1d.bias", "dt_proj.bias"}
    assert without == constant & parameters.keys()
    assert without >= {"A_log", "D"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model is 0"),
        ({"d_conv": 0}, "d_conv is 0"),
        ({"dt_rank": 0}, "dt_rank is 0"),
        ({"d_state": 5, "complex": True}, "d_state is 5"),
        ({"selective": ("dt", "A")}, "selective is"),
        ({"selective": "all"}, "selective is 'all'"),
        ({"selective": None}, "selective is None"),
    ],
)
def test_bad_options_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mamba(**({"d_model": 8} | options))
