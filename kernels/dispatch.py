"""The short way through an operator: straight to its Python functions where nothing needs the dispatcher.

In eager mode the dispatcher's way through Python (boxing, an autograd function of its own making, and both
again for the backward) takes longer than the kernels of a small model. torch.compile, fake tensors, dispatch
modes such as those of selective checkpointing, tensor subclasses and torch.func need it, and get it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def differentiable(
    operator: Callable[..., Any],
    forward: Callable[..., Any],
    save: Callable[..., None],
    differentiate: Callable[..., Any],
) -> Callable[..., Any]:
    """Return a function of `operator`'s arguments that gives what it gives, by the shorter way if it can.

    forward, save, differentiate: what `operator` was registered with: its implementation, and the
        setup_context and the backward of its derivative.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = forward(*arguments)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return differentiate(ctx, *gradients)

    def call(*arguments: Any) -> Any:
        if _needs_dispatcher(arguments):
            return operator(*arguments)
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return Direct.apply(*arguments)

    return call


def backward(operator: Callable[..., Any], implementation: Callable[..., Any]) -> Callable[..., Any]:
    """As `differentiable`, for a derivative: where it may be differentiated in turn, it dispatches."""

    def call(*arguments: Any) -> Any:
        needs_dispatcher = torch.is_grad_enabled() or _needs_dispatcher(arguments)
        return (operator if needs_dispatcher else implementation)(*arguments)

    return call


def undifferentiated(operator: Callable[..., Any], implementation: Callable[..., Any]) -> Callable[..., Any]:
    """As `differentiable`, for an operator without a derivative."""

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
