"""Compile and launch the decoding kernel."""

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
SHARED_MEMORY = 227 * 1024  # limit per block (bytes) on compute capability 9.0


def sources() -> tuple[Path, ...]:
    """Return the source files in the order of inclusion."""
    return tuple(SOURCE / f"{name}.cuh" for name in FILES)


@functools.cache
def _compiled(sizes: Sizes, device: torch.device) -> nvrtc.Kernels:
    return nvrtc.load(sources(), device, **sizes._asdict())


@functools.cache
def clusters(ranks: int, device: torch.device) -> int:
    """Return how many clusters of `ranks` blocks the device runs concurrently, one block per multiprocessor.

    A cluster occupies one group of neighbouring multiprocessors (GPC), so the number can be lower than
    multiprocessors / ranks.
    """
    kernels = nvrtc.load((SOURCE / "cluster.cuh",), device, CLUSTER=ranks)
    return kernels.max_active_clusters("cluster", ranks, SHARED_MEMORY)


def launch(sizes: Sizes, arguments: Arguments, clusters: int, device: torch.device) -> None:
    """Launch the kernel on the current stream; a cluster decodes arguments.share <= sizes.STREAMS streams."""
    kernels = _compiled(sizes, device)
    blocks = clusters * sizes.CLUSTER
    kernels.launch("decode", blocks, sizes.THREADS, [arguments], sizes.shared_memory())
