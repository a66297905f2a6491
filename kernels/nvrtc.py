"""Compile CUDA C++ at run time with NVRTC, cache the binaries on disk, and launch the kernels.

NVRTC and the driver come from cuda-bindings, a dependency of torch's CUDA build. cuda.core 1.2 does not
replace this module: it accepts scalars and buffers as kernel arguments, but the kernels here take structs
by value. It would also be one more dependency, with its own handling of devices and streams beside torch's.
"""

import ctypes
import hashlib
import os
from pathlib import Path
from typing import Any

import torch

try:
    from cuda.bindings import driver, nvrtc
except ImportError:  # torch for CPUs comes without it
    driver = nvrtc = None


class Kernels:
    """Kernels of one compiled source, loaded on one device."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = torch.cuda.current_device() if device.index is None else device.index
        self._functions: dict[tuple[str, int], Any] = {}

    def launch(
        self, name: str, blocks: int, threads: int, arguments: list[Any], shared_memory: int = 0
    ) -> None:
        """Launch kernel `name` on the current stream; `arguments` are ctypes values, passed by value."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        address = ctypes.addressof(pointers)
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        with torch.cuda.device(self._device):
            function = self._function(name, shared_memory)
            stream = torch.cuda.current_stream(self._device).cuda_stream
            _driver(driver.cuLaunchKernel(function, *grid, *block, shared_memory, stream, address, 0))

    def max_active_clusters(self, name: str, blocks: int, shared_memory: int) -> int:
        """Return how many clusters of `blocks` blocks of kernel `name` the device runs concurrently."""
        with torch.cuda.device(self._device):
            config = driver.CUlaunchConfig()
            config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
            config.blockDimX, config.blockDimY, config.blockDimZ = 32, 1, 1
            config.sharedMemBytes = shared_memory
            function = self._function(name, shared_memory)
            return int(_driver(driver.cuOccupancyMaxActiveClusters(function, config)))

    def _function(self, name: str, shared_memory: int) -> Any:
        key = name, shared_memory
        if key not in self._functions:
            function = _driver(driver.cuModuleGetFunction(self._module, name.encode()))
            attributes = driver.CUfunction_attribute
            for attribute, value in (
                (attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_memory),
                (attributes.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
            ):
                _driver(driver.cuFuncSetAttribute(function, attribute, value))
            self._functions[key] = function
        return self._functions[key]


def load(sources: tuple[Path, ...], device: torch.device, **macros: int) -> Kernels:
    """Concatenate `sources`, compile them with these macros and load the kernels on the device."""
    with torch.cuda.device(device):
        torch.cuda.current_stream().synchronize()  # make torch's context current in this thread
        major, minor = torch.cuda.get_device_capability(device)
        options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17"]
        options += [f"-D{name}={value}" for name, value in macros.items()]
        code = "\n".join(source.read_text() for source in sources)
        return Kernels(_driver(driver.cuModuleLoadData(binary(code, tuple(options)))), device)


def binary(code: str, options: tuple[str, ...]) -> bytes:
    """Return the machine code (cubin) of CUDA C++ source, from the cache on disk if present."""
    version = _nvrtc(nvrtc.nvrtcVersion())
    key = hashlib.sha256(repr((code, options, version)).encode()).hexdigest()
    cached = _cache_folder() / f"{key}.cubin"
    if cached.is_file():
        return cached.read_bytes()
    cubin = _compile(code, options)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}")
        partial.write_bytes(cubin)
        partial.replace(cached)
    except OSError:  # with a read-only home the next process compiles again
        pass
    return cubin


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "helixwave" / "cuda"


def _compile(code: str, options: tuple[str, ...]) -> bytes:
    program = _nvrtc(nvrtc.nvrtcCreateProgram(code.encode(), b"kernels.cu", 0, [], []))
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * _nvrtc(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC could not compile the CUDA kernels with {options}: {log.decode()}")
    compiled = b" " * _nvrtc(nvrtc.nvrtcGetCUBINSize(program))
    _nvrtc(nvrtc.nvrtcGetCUBIN(program, compiled))
    nvrtc.nvrtcDestroyProgram(program)
    return compiled


def _nvrtc(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC failed with {status.name}.")
    return values[0] if values else None


def _driver(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"The CUDA driver failed with {status.name}.")
    return values[0] if values else None
