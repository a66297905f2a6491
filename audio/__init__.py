"""Waveforms: data, quantizers, metrics."""
