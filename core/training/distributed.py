"""Data parallelism over the processes that torchrun starts. Their number is nobody's option."""

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
    """This process among `size` equal ones, and the device that it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same bits in each; in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Return when every process is here."""
        self.sum(torch.zeros(1, device=self.device))

    def first_alone(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; the others begin it when the first process has finished."""
        if self.is_first:
            result = work()
            self.wait()
            return result
        self.wait()
        return work()

    def sum_gradients(self, model: nn.Module, extra: Tensor) -> Tensor:
        """Sum every gradient in place, and with them `extra` (n,), which is returned: one message in all."""
        if self.size == 1:
            return extra
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        bucket = self.sum(torch.cat([extra, *(gradient.flatten() for gradient in gradients)]))
        summed_extra, *summed = bucket.split([extra.numel(), *(gradient.numel() for gradient in gradients)])
        for gradient, values in zip(gradients, summed, strict=True):
            gradient.copy_(values.view_as(gradient))
        return summed_extra

    def broadcast(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in model_tensors(model).values():
                torch.distributed.broadcast(tensor.detach(), src=0)

    def rows(self, batch_size: int) -> range:
        """The rows of the global batch that are this process's.

        Raises ValueError if the batch does not divide over the processes.
        """
        share, rest = divmod(batch_size, self.size)
        if rest or share == 0:
            raise ValueError(
                f"A batch of {batch_size} sequences does not divide over {self.size} processes. Make "
                f"batch_size a multiple of {self.size}, or start fewer processes."
            )
        return range(self.rank * share, (self.rank + 1) * share)


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes of torchrun (its RANK, WORLD_SIZE and LOCAL_RANK); without torchrun, be alone.

    The device is the GPU of LOCAL_RANK where there are GPUs, else the CPU. Joined already, it is the same
    world again, which only the outer block leaves. Raises ValueError if torchrun started more processes than
    there are GPUs.
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
    # left only by the normal way: after an error the others may wait in a collective, and so would we
    yield World(rank, size, device)
    torch.distributed.destroy_process_group()


def lone_world() -> World:
    """The world of a job that one process does; ValueError where torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("This is a job for one process: start it without torchrun.")
    return World(0, 1, _device(0))


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"torchrun started a process of local rank {local_rank}, but this machine has "
            f"{torch.cuda.device_count()} GPU(s). Give torchrun --nproc-per-node that number at most."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
