"""Quantizers: between samples in [-1, 1] and 256 codes, one byte each.

A quantizer is its name, which every result carries: likelihoods of different quantizers do not compare.

- `mulaw`: the standard mu-law companding with mu = 255. A code stands for the middle of its bin, and depends
  on its sample alone.
- `linear`: 8-bit PCM, as an unsigned 8-bit WAV file holds it.
- `paper`: mu-law as the published code behind section 4.4 of the Mamba paper computes it, bit for bit on a
  CPU, to compare likelihoods with theirs. It stretches each clip so that its lowest sample is -1 and its
  highest 1, which moves silence away from code 128, and a code stands for the lower edge of its bin: prefer
  `mulaw` for sound.

The first two are a table of levels and of the boundaries between them, so that their codes are the same on
every machine, and code 128 is silence. Samples beyond [-1, 1] are clipped.
"""

from functools import cache
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

Quantizer = Literal["mulaw", "linear", "paper"]
QUANTIZERS: tuple[Quantizer, ...] = get_args(Quantizer)
LEVELS = 256
SILENCE = 128
MU = LEVELS - 1

Array = TypeVar("Array", Tensor, np.ndarray)


def encode(samples: Array, quantizer: Quantizer) -> Array:
    """The uint8 codes of samples (..., length) of any float dtype, a torch tensor or a numpy array.

    For `paper` the last axis is one clip. Raises ValueError for an unknown quantizer, and for samples that
    are not floating point, or not finite.
    """
    _check_name(quantizer)
    if isinstance(samples, np.ndarray):
        return encode(_as_tensor(samples), quantizer).numpy()
    if not samples.is_floating_point():
        raise ValueError(
            f"The samples are {samples.dtype}; they must be floating point in [-1, 1]: divide 16-bit samples "
            "by 32,768."
        )
    samples = samples.float().contiguous()
    if not samples.isfinite().all():
        raise ValueError("The samples hold NaN or infinity: remove them before they are quantized.")
    if quantizer == "paper":
        return _encode_paper(samples)
    boundaries = _boundaries(quantizer, samples.device)
    return torch.bucketize(samples, boundaries, right=True, out_int32=True).to(torch.uint8)


def decode(codes: Array, quantizer: Quantizer) -> Array:
    """The float32 samples of integer codes (any shape), a torch tensor or a numpy array.

    Raises ValueError for an unknown quantizer, and for codes that are not integers in 0 .. 255.
    """
    _check_name(quantizer)
    if isinstance(codes, np.ndarray):
        return decode(_as_tensor(codes), quantizer).numpy()
    if codes.is_floating_point():
        raise ValueError(f"The codes are {codes.dtype}; they must be integers in 0 .. 255.")
    if codes.dtype != torch.uint8 and codes.numel() and (codes.min() < 0 or codes.max() >= LEVELS):
        raise ValueError(
            f"The codes reach from {codes.min()} to {codes.max()}; they must be integers in 0 .. 255: leave "
            "padding out."
        )
    return levels(quantizer, codes.device)[codes.int()]


@cache
def levels(quantizer: Quantizer, device: torch.device) -> Tensor:
    """The samples (256,) float32 that the codes stand for."""
    code = torch.arange(LEVELS, dtype=torch.float64)
    if quantizer == "linear":
        middle = (code - SILENCE) / SILENCE
    elif quantizer == "mulaw":
        middle = _expand(code / MU * 2 - 1)
    else:
        middle = _expand(code.float() / SILENCE - 1)
    return middle.float().to(device)


@cache
def _boundaries(quantizer: Quantizer, device: torch.device) -> Tensor:
    """(255,) float32: the lowest samples of codes 1 .. 255."""
    edge = torch.arange(1, LEVELS, dtype=torch.float64) - 0.5
    lowest = (edge - SILENCE) / SILENCE if quantizer == "linear" else _expand(edge / MU * 2 - 1)
    return lowest.float().to(device)


def _expand(compressed: Tensor) -> Tensor:
    return compressed.sign() * (LEVELS ** compressed.abs() - 1) / MU


def _encode_paper(samples: Tensor) -> Tensor:
    """The published formula in its order of operations: every rounding in fp32 is part of the result."""
    if not samples.numel():
        return samples.to(torch.uint8)
    low, high = samples.amin(-1, keepdim=True), samples.amax(-1, keepdim=True)
    stretched = -1 + 2 * (samples - low) / (high - low + 1e-6)
    # the offset 1e-8 and the margins 0.01 and 0.005 are the published code's
    compressed = stretched.sign() * ((MU * (stretched + 1e-8).abs()).log1p() / torch.tensor(MU).log1p())
    return ((compressed + 1) / 2 * (LEVELS - 0.01) + 0.005).to(torch.uint8)


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def _check_name(quantizer: str) -> None:
    if quantizer not in QUANTIZERS:
        raise ValueError(f"There is no quantizer {quantizer!r}: choose one of {', '.join(QUANTIZERS)}.")
