"""ctypes mirrors of the structs with the same names in cuda_source: the arguments of the CUDA kernels."""

import ctypes


class Rows(ctypes.Structure):
    """Tensor (batch, length, channels) with contiguous channels (types.cuh)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("time_stride", ctypes.c_int64),
    )


class Shape(ctypes.Structure):
    """Sizes of a scan and its segments (types.cuh)."""

    _fields_ = (
        ("length", ctypes.c_int64),
        ("batch", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("state", ctypes.c_int),
        ("segments", ctypes.c_int),
        ("chunks_per_segment", ctypes.c_int),
    )


class ForwardArguments(ctypes.Structure):
    """Arguments of the forward kernels (forward.cuh)."""

    _fields_ = (
        ("shape", Shape),
        *((name, Rows) for name in ("x", "dt", "B", "C", "z", "y")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("A", "D", "bias", "initial", "starts"),
                *("checkpoints", "final_state", "ends", "dt_sums"),
            )
        ),
        ("group_channels", ctypes.c_int),
        ("bc_floats", ctypes.c_int),
    )


class PassArguments(ctypes.Structure):
    """Arguments of the kernels that pass states between segments (passing.cuh)."""

    _fields_ = (
        ("shape", Shape),
        *((name, ctypes.c_void_p) for name in ("A", "initial", "ends", "dt_sums")),
    )


class BackwardArguments(ctypes.Structure):
    """Arguments of the backward kernels (backward_ends.cuh); `forward` is its field `f`."""

    _fields_ = (
        ("forward", ForwardArguments),
        *((name, Rows) for name in ("dy", "dx", "ddt", "dz")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("final_gradient", "adjoints", "adjoint_ends", "dt_sums"),
                *("dA", "dD", "dbias", "initial_gradient", "dBC", "dB", "dC"),
            )
        ),
        ("batch_per_block", ctypes.c_int),
    )
