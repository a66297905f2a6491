"""Detection of modules whose parameters may be read directly, instead of calling the module."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_TORCH_TYPES = {nn.Linear, nn.Conv1d, nn.GRU, nn.Dropout, nn.ModuleList}
_TENSOR_TYPES = {Tensor, nn.Parameter, type(None)}
_PACKAGE = __name__.partition(".")[0]


def is_plain(module: nn.Module) -> bool:
    """Return whether a call of the module computes what its exact class defines, on ordinary tensors.

    Adapters, parametrizations, wrapped and quantized layers have another class or other tensors. Hooks and a
    replaced `forward` act only if the module is called.
    """
    kind, attributes = type(module), module.__dict__
    if kind not in _TORCH_TYPES and kind.__module__.partition(".")[0] != _PACKAGE:
        return False
    if attributes["_forward_hooks"] or attributes["_forward_pre_hooks"] or "forward" in attributes:
        return False
    if attributes["_backward_hooks"] or attributes["_backward_pre_hooks"] or _has_any_global_hook():
        return False
    for tensor in attributes["_parameters"].values():  # noqa: SIM110  (a generator costs time in each step)
        if type(tensor) not in _TENSOR_TYPES:
            return False
    return True


def all_plain(model: nn.Module) -> bool:
    """Return whether every module of a model is plain."""
    return all(map(is_plain, model.modules()))


def float_tensor(module: nn.Module) -> Tensor:
    """Return a floating-point parameter of a module, for the device and dtype of new tensors."""
    return next(parameter for parameter in module.parameters() if parameter.is_floating_point())


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()
