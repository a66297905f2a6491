"""Run the decoding kernel on the CPU, compiled as C++: its logic and its barriers, without a GPU."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from kernels.decoding import cuda
from kernels.decoding.arguments import Arguments, Sizes

HERE = Path(__file__).parent
_LIBRARIES: dict[str, ctypes.CDLL] = {}
SEED = 0


def launch(sizes: Sizes, arguments: Arguments, clusters: int, device: torch.device) -> None:
    """Replace kernels.decoding.cuda.launch."""
    library = _library(sizes)
    assert library.shared_bytes() == sizes.shared_memory()
    library.emulate(ctypes.byref(arguments), clusters, SEED)


def _library(sizes: Sizes) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed to compile the kernel for the CPU")
    code = "\n".join(path.read_text() for path in cuda.sources() if path.stem != "primitives")
    code = code.replace("extern __shared__ __align__(16) char memory[];", MEMORY)
    key = hashlib.sha256(repr((code, sizes)).encode()).hexdigest()[:16]
    if key not in _LIBRARIES:
        folder = Path(tempfile.mkdtemp())
        source, library = folder / "decode.hpp", folder / "decode.so"
        source.write_text(code)
        macros = [f"-D{name}={value}" for name, value in sizes._asdict().items()]
        options = ["-std=c++17", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run(
            [compiler, *options, *macros, f'-DSOURCE="{source}"', str(HERE / "emulator.cpp"), "-o", library],
            check=True,
        )
        _LIBRARIES[key] = ctypes.CDLL(str(library))
        shutil.rmtree(folder)
    return _LIBRARIES[key]


MEMORY = "char* memory = emulator::blocks[emulator::current->block].memory;"
