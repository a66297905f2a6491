"""Conversion of tensors (..., channels) to the layouts that kernels read, and facts of their memory."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad


def as_rows(tensor: Tensor) -> Tensor:
    """Return (..., channels) as (rows, channels) with adjacent channels, copied only if necessary."""
    rows = tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def in_vectors(tensor: Tensor, lanes: int) -> Tensor:
    """Return a tensor in contiguous fp32, its channels padded with zeros to a multiple of `lanes`."""
    missing = -tensor.shape[-1] % lanes
    return (pad(tensor.float(), (0, missing)) if missing else tensor.float()).contiguous()


def address(tensor: Tensor | None) -> int:
    """Return the address of a tensor's memory, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


@cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU; 1 for Triton's interpreter on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
