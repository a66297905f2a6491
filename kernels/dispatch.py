"""Shortcuts around torch's dispatcher: call the Python functions of an operator directly.

In eager mode the Python overhead of the dispatcher (boxing and its own autograd function, in both passes)
exceeds the run time of small kernels. The dispatcher still handles torch.compile, fake tensors, dispatch
modes (such as those of selective checkpointing), tensor subclasses and torch.func.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def shortcut_with_autograd(
    operator: Callable[..., Any],
    forward: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Return a function equivalent to `operator` that avoids the dispatcher where possible.

    forward: the implementation registered with `operator`.
    setup_context, backward: the functions given to `torch.library.register_autograd`.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = forward(*arguments)
            setup_context(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    def call(*arguments: Any) -> Any:
        if _needs_dispatcher(arguments):
            return operator(*arguments)
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return Direct.apply(*arguments)

    return call


def shortcut_without_grad(
    operator: Callable[..., Any], implementation: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a shortcut to the backward of an operator; it calls `operator` if gradients are enabled."""

    def call(*arguments: Any) -> Any:
        needs_dispatcher = torch.is_grad_enabled() or _needs_dispatcher(arguments)
        return (operator if needs_dispatcher else implementation)(*arguments)

    return call


def shortcut(operator: Callable[..., Any], implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a shortcut to an operator that has no gradient."""

    def call(*arguments: Any) -> Any:
        return (operator if _needs_dispatcher(arguments) else implementation)(*arguments)

    return call


def _needs_dispatcher(arguments: tuple[Any, ...]) -> bool:
    return (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()
        or any(isinstance(a, Tensor) and type(a) not in (Tensor, torch.nn.Parameter) for a in arguments)
    )
