"""Tensors (..., channels) as the kernels take them: rows of channels."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad


def as_rows(tensor: Tensor) -> Tensor:
    """Return (..., channels) as (rows, channels), channels adjacent, copied only if it must."""
    rows = tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def in_vectors(tensor: Tensor, lanes: int) -> Tensor:
    """Return the tensor in contiguous fp32, its channels filled with zeros to whole vectors of `lanes`."""
    missing = -tensor.shape[-1] % lanes
    return (pad(tensor.float(), (0, missing)) if missing else tensor.float()).contiguous()


def address(tensor: Tensor | None) -> int:
    """Return where the tensor's memory starts, 0 without one."""
    return 0 if tensor is None else tensor.data_ptr()


@cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has, 1 for Triton's interpreter on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
