"""Audio data: clips, packs, quantizers, windows, waveform files."""
