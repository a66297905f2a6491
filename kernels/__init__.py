"""Operators on tensors: selective scan, causal convolution, RMS norm."""
