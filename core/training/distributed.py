"""Data parallelism over the processes of torchrun. The world size comes from torchrun."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from core.checkpoints.checkpoint import model_tensors

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """Rank and device of this process among `size` processes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_rank_0(self) -> bool:
        """Return whether this process writes and prints."""
        return self.rank == 0

    def print(self, text: str) -> None:
        """Print on rank 0 only."""
        if self.is_rank_0:
            print(text, flush=True)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks in place and return it; every rank gets the same bits."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.sum(torch.zeros(1, device=self.device))

    def rank_0_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` on rank 0, then on the other ranks; return its result."""
        if self.is_rank_0:
            result = work()
            self.barrier()
            return result
        self.barrier()
        return work()

    def sum_gradients(self, model: nn.Module, extra: Tensor) -> Tensor:
        """Sum every gradient over all ranks in place; return the sum of `extra` (n,). Uses one all-reduce."""
        if self.size == 1:
            return extra
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        bucket = self.sum(torch.cat([extra, *(gradient.flatten() for gradient in gradients)]))
        summed_extra, *summed = bucket.split([extra.numel(), *(gradient.numel() for gradient in gradients)])
        for gradient, values in zip(gradients, summed, strict=True):
            gradient.copy_(values.view_as(gradient))
        return summed_extra

    def broadcast(self, model: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to every rank."""
        if self.size > 1:
            for tensor in model_tensors(model).values():
                torch.distributed.broadcast(tensor.detach(), src=0)

    def rows(self, batch_size: int) -> range:
        """Return the rows of the global batch that this rank computes.

        Raises ValueError if batch_size is not a multiple of the world size.
        """
        share, rest = divmod(batch_size, self.size)
        if rest or share == 0:
            raise ValueError(
                f"A batch of {batch_size} sequences does not divide over {self.size} processes. Make "
                f"batch_size a multiple of {self.size}, or start fewer processes."
            )
        return range(self.rank * share, (self.rank + 1) * share)


@contextmanager
def distributed_world() -> Iterator[World]:
    """Join the process group of torchrun (RANK, WORLD_SIZE, LOCAL_RANK); without torchrun, a world of size 1.

    The device is the GPU with index LOCAL_RANK, or the CPU on a machine without GPUs. Blocks may be nested:
    the outermost one leaves the process group. Raises ValueError if torchrun started more processes than the
    machine has GPUs.
    """
    rank, size, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    device = _device(local)
    if size == 1 or torch.distributed.is_initialized():
        yield World(rank, size, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    # not in a finally: after an error on this rank the other ranks may hang in a collective
    yield World(rank, size, device)
    torch.distributed.destroy_process_group()


def single_process_world() -> World:
    """Return a world of size 1. Raises ValueError if torchrun started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("This script runs in one process: start it without torchrun.")
    return World(0, 1, _device(0))


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"torchrun started local rank {local_rank}, but this machine has "
            f"{torch.cuda.device_count()} GPU(s). Set --nproc-per-node to at most that number."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
