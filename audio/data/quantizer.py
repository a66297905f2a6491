"""Quantizers between samples in [-1, 1] and 256 codes of one byte.

Results record the quantizer by name, because likelihoods of different quantizers are not comparable.

- `mulaw`: standard mu-law companding with mu = 255. A code decodes to the middle of its bin, and depends on
  its sample alone.
- `linear`: 8-bit PCM, as in an unsigned 8-bit WAV file.
- `paper`: mu-law of the published code for section 4.4 of the Mamba paper, bit-identical on a CPU, for
  comparison of likelihoods. It rescales each clip to [-1, 1], which moves silence away from code 128, and a
  code decodes to the lower edge of its bin. For listening, prefer `mulaw`.

The first two use tables of levels and boundaries, so their codes are the same on every machine, and code 128
is silence. Samples beyond [-1, 1] are clipped.
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
    """Return the uint8 codes of samples (..., length) of any float dtype, a torch tensor or a numpy array.

    With `paper`, the last axis is one clip. Raises ValueError for an unknown quantizer, and for samples that
    are not floating point or not finite.
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
    """Return the float32 samples of integer codes (any shape), a torch tensor or a numpy array.

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
    """Return the samples (256,) float32 of all codes."""
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
    """Return the lowest samples of codes 1 .. 255, (255,) float32."""
    edge = torch.arange(1, LEVELS, dtype=torch.float64) - 0.5
    lowest = (edge - SILENCE) / SILENCE if quantizer == "linear" else _expand(edge / MU * 2 - 1)
    return lowest.float().to(device)


def _expand(compressed: Tensor) -> Tensor:
    return compressed.sign() * (LEVELS ** compressed.abs() - 1) / MU


def _encode_paper(samples: Tensor) -> Tensor:
    """Encode by the published formula in its order of operations, which determines the fp32 rounding."""
    if not samples.numel():
        return samples.to(torch.uint8)
    low, high = samples.amin(-1, keepdim=True), samples.amax(-1, keepdim=True)
    stretched = -1 + 2 * (samples - low) / (high - low + 1e-6)
    # offset 1e-8 and margins 0.01 and 0.005 come from the published code
    compressed = stretched.sign() * ((MU * (stretched + 1e-8).abs()).log1p() / torch.tensor(MU).log1p())
    return ((compressed + 1) / 2 * (LEVELS - 0.01) + 0.005).to(torch.uint8)


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def _check_name(quantizer: str) -> None:
    if quantizer not in QUANTIZERS:
        raise ValueError(f"There is no quantizer {quantizer!r}: choose one of {', '.join(QUANTIZERS)}.")
