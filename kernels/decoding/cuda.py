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
SOURCE = Path(__file__).parent / "cuda_source"
SHARED_MEMORY = 227 * 1024  # bytes that a block of the kernel may have


def sources() -> tuple[Path, ...]:
    return tuple(SOURCE / f"{name}.cuh" for name in FILES)


@functools.cache
def _compiled(sizes: Sizes, device: torch.device) -> nvrtc.Kernels:
    return nvrtc.load(sources(), device, **sizes._asdict())


@functools.cache
def clusters(ranks: int, device: torch.device) -> int:
    """How many clusters of so many blocks, each alone on its multiprocessor, the device runs at once.

    A cluster lies within one group of neighbours, so that there may be fewer than the multiprocessors allow.
    """
    kernels = nvrtc.load((SOURCE / "cluster.cuh",), device, CLUSTER=ranks)
    return kernels.clusters("cluster", ranks, SHARED_MEMORY)


def launch(sizes: Sizes, arguments: Arguments, clusters: int, device: torch.device) -> None:
    """Decode on the current stream; each cluster has arguments.share streams, at most sizes.STREAMS."""
    kernels = _compiled(sizes, device)
    blocks = clusters * sizes.CLUSTER
    kernels.launch("decode", blocks, sizes.THREADS, [arguments], sizes.shared_memory())
