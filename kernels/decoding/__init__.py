"""Decoding: many steps of a whole model in one launch, for NVIDIA GPUs from compute capability 9.0 on."""
