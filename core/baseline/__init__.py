"""What Mamba is compared with: earlier models of raw waveforms, each small and in one file."""
