"""What a user runs: one script a job."""

import os

# Before torch is imported: OpenMP's threads would spin while they wait for each other, which makes a small
# model several times slower where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
