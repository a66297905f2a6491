"""Compile Triton kernels without a GPU: the interpreter accepts code that the compiler rejects."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class _AbsentGpu:
    """Minimal driver for the compiler: an H100 or H200."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling_only() -> Iterator[list[Any]]:
    """Compile kernels where they would be launched, and yield the growing list of them."""
    compiled: list[Any] = []
    launch = JITFunction.run

    def compile_only(kernel: JITFunction, *arguments: Any, warmup: bool, **options: Any) -> None:
        compiled.append(launch(kernel, *arguments, warmup=True, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", compile_only)
        patch.setattr(driver, "_active", _AbsentGpu())
        yield compiled
