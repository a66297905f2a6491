"""Run the tests of the Triton kernels on the CPU, in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "triton"


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton has no wheels for this platform"
)
@pytest.mark.parametrize("module", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_passes_in_the_interpreter(module: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "-q", str(FOLDER / module)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout[-8000:] + outcome.stderr[-2000:]
