"""Arguments of the decoding kernel: ctypes mirrors of the structs in cuda_source/types.cuh."""

import ctypes
from typing import NamedTuple

from kernels.decoding.packing import TILE

_POINTERS = (
    *("bias", "conv_weight", "conv_bias", "dt_weight", "dt_bias", "A", "B", "C", "D"),
    *("conv", "ssm", "frames_in", "frames_out"),
)
_NUMBERS = (
    *("kind", "period", "depth", "width", "own_channels", "pool"),
    *("dt_rank", "projected", "is_complex", "has_dt", "has_B", "has_C"),
    *("residual", "save", "add"),
)
BLOCK, HEAD, COMPRESS, EXPAND = range(4)


class Product(ctypes.Structure):
    """Packed weights of one matrix product."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("high", "low")),
        *((name, ctypes.c_int) for name in ("tiles", "steps")),
    )


class Operation(ctypes.Structure):
    """One operation of a program: a block, the head, or a projection between two stages."""

    _fields_ = (
        *((name, Product) for name in ("first", "second", "third")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int) for name in _NUMBERS),
    )


class Arguments(ctypes.Structure):
    """Arguments of one launch."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("operations", "embedding_operand", "embedding", "keys", "allowed"),
                *("logits", "tokens", "log_probabilities"),
            )
        ),
        ("position", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("count", "share", "steps", "slowest_period", "top_k")),
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "epsilon")),
    )


class Sizes(NamedTuple):
    """Macros of the CUDA source; see cuda_source/types.cuh."""

    CLUSTER: int
    PARTS: int
    STREAMS: int
    THREADS: int
    GROUP: int
    AHEAD: int
    RING: int
    STATE: int
    CONV: int
    COMPLEX: int
    PLANES: int
    VOCABULARY: int
    WIDEST: int
    OWN_CHANNELS: int
    OPERAND: int
    PROJECTED: int
    DT_RANK: int
    RESIDUAL_ROWS: int
    SKIP_ROWS: int
    OPERATIONS: int

    def shared_memory(self) -> int:
        """Return the shared memory of a block (bytes), a multiple of 16."""
        return -(-ctypes.sizeof(_shared(self)) // 16) * 16

    def chunk_bytes(self) -> int:
        """Return the size of one chunk of weights over all warps (bytes)."""
        return self.THREADS // 32 * self.AHEAD * self.PLANES * TILE * TILE * 2


def _shared(sizes: Sizes) -> type[ctypes.Structure]:
    streams, ranks, word = sizes.STREAMS, sizes.CLUSTER, ctypes.c_float
    logits = -(-streams // ranks) * sizes.VOCABULARY

    class Shared(ctypes.Structure):
        _fields_ = (
            ("weights", ctypes.c_char * (sizes.RING * sizes.chunk_bytes())),
            ("stream", word * (streams * _apart(sizes.WIDEST))),
            ("projected", word * (streams * sizes.PROJECTED)),
            ("steps", word * (2 * streams * sizes.OWN_CHANNELS)),
            ("u", word * (streams * (sizes.OWN_CHANNELS + 4))),
            ("z", word * (streams * (sizes.OWN_CHANNELS + 4))),
            ("operand", word * (streams * _apart(sizes.OPERAND))),
            ("outputs", word * (sizes.WIDEST * streams)),
            ("projections", word * (ranks * sizes.PROJECTED * streams)),
            ("residual", word * (2 * sizes.RESIDUAL_ROWS * streams)),
            ("skips", word * (sizes.SKIP_ROWS * streams)),
            ("logits_and_noise", word * (2 * logits)),
            ("scale", word * streams),
            ("tokens", word * streams),
            ("operations", Operation * sizes.OPERATIONS),
        )

    return Shared


def _apart(words: int) -> int:
    """Return the stride between the operands of two streams (words); it avoids bank conflicts."""
    return words + (16 if words % 32 == 0 else 0)
