"""Compiling and launching the decoding kernel."""

import functools
from pathlib import Path

import torch

from kernels import nvrtc
from kernels.decoding.arguments import Arguments, Sizes

FILES = (
    *("types", "primitives", "products", "exchange", "walk", "convolution", "scan", "block"),
    *("frames", "sampling", "decode"),
)


def sources() -> tuple[Path, ...]:
    return tuple(Path(__file__).parent / "cuda_source" / f"{name}.cuh" for name in FILES)


@functools.cache
def _compiled(sizes: Sizes, device: torch.device) -> nvrtc.Kernels:
    return nvrtc.load(sources(), device, **sizes._asdict())


def fits(sizes: Sizes, device: torch.device) -> bool:
    """Whether the device can run a cluster of the kernel: not every GPU has neighbours enough for 16 blocks."""
    kernels = _compiled(sizes, device)
    return kernels.clusters("decode", sizes.CLUSTER, sizes.THREADS, sizes.shared_memory()) > 0


def launch(sizes: Sizes, arguments: Arguments, clusters: int, device: torch.device) -> None:
    """Decode on the current stream; each cluster has sizes.STREAMS streams."""
    kernels = _compiled(sizes, device)
    blocks = clusters * sizes.CLUSTER
    kernels.launch("decode", blocks, sizes.THREADS, [arguments], sizes.shared_memory())
