"""Operators on tensors: selective scan, causal convolution, RMS norm."""

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan, selective_scan_step

__all__ = ["causal_conv1d", "causal_conv1d_step", "rms_norm", "selective_scan", "selective_scan_step"]
