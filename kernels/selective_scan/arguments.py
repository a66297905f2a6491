"""Arguments and gradients of the selective scan: one list for the operators and for every backend."""

from collections.abc import Sequence
from math import lcm
from typing import Any, NamedTuple

from torch import Tensor


class ScanArguments(NamedTuple):
    """All arguments of a scan, in the order of the operator's schema.

    Inside the operators B and C are constant (channels, N) or varying (batch, length, groups, N), with a
    last axis of 2, (re, im), where A is complex. The public function documents the other shapes.

    A single step uses the same arguments without the length axis: x, dt and z are (batch, channels), varying
    B and C are (batch, groups, N), and the backend updates `initial_state` in place.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    dt_bias: Tensor | None = None
    dt_softplus: bool = False
    initial_state: Tensor | None = None
    cu_seqlens: Tensor | None = None
    reverse: bool = False

    @property
    def has_constant_b(self) -> bool:
        """Return whether B is (channels, N)."""
        return is_constant(self.B, self.A)

    @property
    def has_constant_c(self) -> bool:
        """Return whether C is (channels, N)."""
        return is_constant(self.C, self.A)

    @property
    def groups(self) -> int:
        """Return the number of groups of channels that share B and C, for both together."""
        return lcm(_groups(self.B, self.A), _groups(self.C, self.A))

    @property
    def parts(self) -> int:
        """Return the number of reals of one state: 2 if A is complex, else 1."""
        return 2 if self.A.is_complex() else 1

    @property
    def sequences(self) -> int:
        """Return the number of sequences; each has one state."""
        return len(self.x) if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    def contiguous(self) -> "ScanArguments":
        """Return the same arguments with every tensor contiguous."""
        values: list[Any] = [v.contiguous() if isinstance(v, Tensor) else v for v in self]
        return ScanArguments(*values)

    def with_common_groups(self) -> "ScanArguments":
        """Return the same arguments with B and C repeated to the same number of groups."""
        if _groups(self.B, self.A) == _groups(self.C, self.A):
            return self
        B, C = (_repeat_groups(weights, self.A, self.groups) for weights in (self.B, self.C))
        return self._replace(B=B, C=C)


class ScanGradients(NamedTuple):
    """Gradients of the float arguments, None for an absent argument; those of parameters may be fp32."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None


FLAGS = ("dt_softplus", "reverse")
TENSORS = tuple(name for name in ScanArguments._fields if name not in FLAGS)
STEP = ScanArguments._fields[: ScanArguments._fields.index("initial_state")]  # the step adds the state

_SCHEMA_TYPES: dict[Any, str] = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool"}


def schema(names: Sequence[str] = ScanArguments._fields) -> str:
    """Return the named arguments as torch.library declares them: "Tensor x, Tensor dt, ..."."""
    types = ScanArguments.__annotations__
    return ", ".join(f"{_SCHEMA_TYPES[types[name]]} {name}" for name in names)


def is_constant(weights: Tensor, A: Tensor) -> bool:
    """Return whether B or C is constant, (channels, N), instead of (..., groups, N)."""
    return weights.dim() == 2 + A.is_complex()


def _groups(weights: Tensor, A: Tensor) -> int:
    return 1 if is_constant(weights, A) else weights.shape[-2 - A.is_complex()]


def _repeat_groups(weights: Tensor, A: Tensor, groups: int) -> Tensor:
    own = _groups(weights, A)
    if is_constant(weights, A) or own == groups:
        return weights
    return weights.repeat_interleave(groups // own, -2 - A.is_complex())
