"""Tests of the Triton kernels, on a GPU or in Triton's interpreter; not collected with neither.

`tests/kernels/test_triton_interpreter.py` runs each module of this folder in a separate process with
TRITON_INTERPRET=1, which must be set before triton is imported.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]

if INTERPRETED:
    from triton.runtime import interpreter

    _patch_tensor = interpreter._patch_lang_tensor

    def _patch_tensor_with_index(tensor: Any, scope: Any) -> None:
        """Let a scalar bound a loop: numpy 2.4 does not convert its one-element array to an int."""
        _patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = _patch_tensor_with_index


@pytest.fixture
def device() -> str:
    """Return the device of the tensors of a test."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new buffers with NaN, which shows elements that a kernel does not write."""

    def poison(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_poisoned(*args: Any, **keywords: Any) -> torch.Tensor:
            tensor = allocate(*args, **keywords)
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.fill_(float("nan"))
            return tensor

        return allocate_poisoned

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
