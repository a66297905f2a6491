"""Command-line scripts, one per job."""

import os

# Set before torch is imported. Spinning OpenMP threads make a small model several times slower on
# shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
