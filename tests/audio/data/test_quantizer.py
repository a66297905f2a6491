"""Quantizers against independent formulas; decoding inverts encoding with small error."""

import math

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from audio.data.quantizer import QUANTIZERS, SILENCE, Quantizer, decode, encode, levels

SAMPLES = [0.0, 0.001, -0.001, 0.01, 0.1, -0.25, 0.5, 0.75, -0.3, 0.9, 0.015625, -0.45]
EVERY_CODE = np.arange(256, dtype=np.uint8)
SAMPLE_WISE: tuple[Quantizer, ...] = ("mulaw", "linear")

clips = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=32))
each = pytest.mark.parametrize("quantizer", QUANTIZERS)
each_sample_wise = pytest.mark.parametrize("quantizer", SAMPLE_WISE)


def test_golden_codes_of_mulaw() -> None:
    # in decimal arithmetic of 40 digits
    assert encode(np.array(SAMPLES), "mulaw").tolist() == [
        128, 133, 122, 157, 203, 32, 239, 248, 27, 253, 164, 18,
    ]  # fmt: skip
    edges = np.array([1, -1, -0.00005, 0.00005, -0.00009, 0.0002])
    assert encode(edges, "mulaw").tolist() == [255, 0, 127, 128, 127, 129]
    assert decode(np.array([0, 1, 64, 127, 128, 129, 192, 255]), "mulaw") == pytest.approx(
        [-1, -0.9572737087, -0.0581450039, -8.62116e-5, 8.62116e-5, 0.0002643623, 0.060903938, 1], rel=1e-6
    )


def test_golden_codes_of_paper() -> None:
    # as the published code gives them
    assert encode(np.array(SAMPLES), "paper").tolist() == [25, 25, 25, 26, 38, 8, 235, 250, 5, 255, 26, 0]
    assert encode(np.array([0.0, -1.0, 1.0, 0.5]), "paper").tolist() == [127, 0, 255, 240]
    # samples whose codes change where the margins 0.01 and 0.005 do
    near_edges = [-1.0, 1.0, -0.4004, -0.8047, 0.4769, -0.4982, 0.9578, -0.5931, 0.5931, -0.7375, 0.9576]
    near_edges += [-0.8404, -0.8046, -0.3216, -0.4564, -0.2819, -0.2263, 0.0645, 0.3078]
    assert encode(np.array(near_edges), "paper").tolist() == [
        0, 255, 20, 4, 239, 15, 255, 12, 243, 7, 254, 4, 5, 26, 18, 29, 33, 193, 228,
    ]  # fmt: skip
    assert decode(np.array([0, 1, 64, 127, 128, 129, 192, 255]), "paper") == pytest.approx(
        [-1, -0.957437038, -0.05882353, -0.00017362248, 0, 0.00017362248, 0.05882353, 0.957437038], rel=1e-6
    )


def test_golden_codes_of_linear() -> None:
    assert encode(np.array([-1, -0.5, -1 / 256, 0, 1 / 129, 0.5, 1]), "linear").tolist() == [
        0, 64, 128, 128, 129, 192, 255,
    ]  # fmt: skip
    assert decode(EVERY_CODE, "linear").tolist() == [(code - 128) / 128 for code in range(256)]


def test_mulaw_of_every_16_bit_sample_is_the_formula() -> None:
    samples = np.arange(-(2**15), 2**15) / 2**15
    compressed = np.sign(samples) * np.log1p(255 * np.abs(samples)) / math.log(256)
    assert np.array_equal(encode(samples, "mulaw"), np.floor((compressed + 1) / 2 * 255 + 0.5))
    by_torchaudio = torchaudio.functional.mu_law_encoding(torch.from_numpy(samples).float(), 256)
    assert torch.equal(encode(torch.from_numpy(samples), "mulaw").long(), by_torchaudio)
    torch.testing.assert_close(
        levels("mulaw", torch.device("cpu")), torchaudio.functional.mu_law_decoding(torch.arange(256), 256)
    )


@given(clip=clips)
def test_paper_is_its_formula_up_to_rounding(clip: np.ndarray) -> None:
    exact = clip.astype(np.float64)
    stretched = -1 + 2 * (exact - exact.min()) / (exact.max() - exact.min() + 1e-6)
    compressed = np.sign(stretched) * np.log1p(255 * np.abs(stretched + 1e-8)) / math.log(256)
    scaled = (compressed + 1) / 2 * 255.99 + 0.005
    codes = encode(clip, "paper").astype(int)
    # near silence fp32 loses digits of the stretched sample, which the logarithm magnifies
    slack = 1e-3 + 128 * 1e-6 * 255 / math.log(256) / (1 + 255 * np.abs(stretched))
    assert ((scaled - slack < codes + 1) & (codes <= scaled + slack)).all()


@each_sample_wise
def test_silence_is_its_code(quantizer: Quantizer) -> None:
    assert encode(torch.tensor([0.0, -0.0]), quantizer).tolist() == [SILENCE, SILENCE]
    assert abs(decode(torch.tensor([SILENCE]), quantizer).item()) < 1e-4


@each_sample_wise
def test_every_code_is_its_own_sample(quantizer: Quantizer) -> None:
    assert np.array_equal(encode(decode(EVERY_CODE, quantizer), quantizer), EVERY_CODE)


@each_sample_wise
def test_codes_increase_with_the_sample_and_name_the_nearest_level(
    quantizer: Quantizer,
) -> None:
    samples = np.linspace(-1, 1, 100_001)
    codes = encode(samples, quantizer).astype(int)
    assert set(np.diff(codes)) == {0, 1}
    assert set(codes) == set(range(256))
    error = np.abs(decode(codes, quantizer) - samples)
    spacing = np.diff(decode(EVERY_CODE, quantizer)).max()
    assert error.max() <= spacing * (0.55 if quantizer == "mulaw" else 1.0)  # linear has no level at +1


@each_sample_wise
@pytest.mark.parametrize("beyond", [1.0000001, 1.5, 1e30])
def test_samples_beyond_full_scale_are_clipped(quantizer: Quantizer, beyond: float) -> None:
    assert encode(torch.tensor([-beyond, beyond]), quantizer).tolist() == [0, 255]


@pytest.mark.parametrize("noise", ["uniform", "laplace", "normal"])
def test_mulaw_keeps_37_decibels_of_full_scale_noise_and_no_offset(noise: str) -> None:
    samples = getattr(np.random.default_rng(0), noise)(size=200_000)
    samples = np.where(np.arange(len(samples)) % 2, samples, -samples) / np.abs(samples).max()
    error = decode(encode(samples, "mulaw"), "mulaw") - samples
    assert 10 * np.log10((samples**2).mean() / (error**2).mean()) > 37
    assert abs(error.mean()) < 2e-4


@given(clip=clips, cut=st.integers(0, 60))
@each_sample_wise
def test_pieces_equal_the_whole(quantizer: Quantizer, clip: np.ndarray, cut: int) -> None:
    pieces = [encode(piece, quantizer) for piece in (clip[:cut], clip[cut:])]
    assert np.array_equal(np.concatenate(pieces), encode(clip, quantizer))


@given(clip=clips, factor=st.sampled_from([0.5, 0.125]))
def test_paper_scales_every_clip_of_a_batch_separately(clip: np.ndarray, factor: float) -> None:
    codes = encode(np.stack([clip, clip[::-1], clip * factor]), "paper")
    assert np.array_equal(codes[0], encode(clip, "paper"))
    assert np.array_equal(codes[1], codes[0][::-1])
    if np.ptp(clip) > 0.1:
        assert codes[2].min() == 0
        assert codes[2].max() >= 254
        assert np.abs(codes[2].astype(int) - codes[0]).max() <= 12  # the 1e-6 moves what is near silence


def test_paper_gives_a_constant_clip_the_lowest_code() -> None:
    assert encode(torch.full((2, 5), 0.3), "paper").tolist() == [[0] * 5] * 2


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_float_dtype_of_any_layout_is_read_as_fp32(quantizer: Quantizer, dtype: torch.dtype) -> None:
    samples = (torch.rand(7, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(dtype)
    expected = encode(samples.t().float().contiguous(), quantizer)
    assert torch.equal(encode(samples.t(), quantizer), expected)
    assert torch.equal(encode(samples.clone().requires_grad_().t(), quantizer), expected)
    assert expected.dtype == torch.uint8


@each
def test_numpy_equals_torch(quantizer: Quantizer) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (4, 9)).astype(np.float32)
    samples.flags.writeable = False
    turned = samples[::-1, ::2]
    codes = encode(turned, quantizer)
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, encode(torch.from_numpy(turned.copy()), quantizer))
    decoded = decode(codes[:, ::-1], quantizer)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, decode(torch.from_numpy(codes[:, ::-1].copy()), quantizer))


@each
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (2, 3, 1)])
def test_shapes_stay(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    codes = encode(torch.zeros(shape), quantizer)
    assert codes.shape == decode(codes, quantizer).shape == shape


@each
def test_what_is_encoded_is_left_alone(quantizer: Quantizer) -> None:
    samples = torch.tensor([0.1, -3.0, 2.0])
    kept = samples.clone()
    codes = encode(samples, quantizer)
    decode(codes, quantizer).zero_()
    assert torch.equal(samples, kept)
    assert torch.equal(encode(samples, quantizer), codes)
    assert decode(codes, quantizer).any()


@each
def test_bad_samples_and_codes_are_rejected(quantizer: Quantizer) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            encode(torch.tensor([0.0, bad]), quantizer)
    with pytest.raises(ValueError, match=r"int16; they must be floating point.*by 32,768"):
        encode(np.zeros(3, np.int16), quantizer)
    with pytest.raises(ValueError, match=r"from -100 to 3; .* leave padding out"):
        decode(torch.tensor([3, -100]), quantizer)
    with pytest.raises(ValueError, match="from 3 to 256"):
        decode(np.array([3, 256]), quantizer)
    with pytest.raises(ValueError, match="float32; they must be integers"):
        decode(torch.zeros(3), quantizer)


def test_an_unknown_quantizer_is_named_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"no quantizer 'mu-law': choose one of mulaw, linear, paper\."):
        encode(torch.zeros(3), "mu-law")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no quantizer 'alaw'"):
        decode(torch.zeros(3, dtype=torch.uint8), "alaw")  # type: ignore[arg-type]
