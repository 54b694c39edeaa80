"""CUDA kernels of our own: compiled by NVRTC, which torch ships, and launched through the driver.

A launch holds the GIL for the few microseconds that it takes. Launches by torch release it each
time, and a thread that is busy with Python, such as a sampler's, then takes it and keeps it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

WINDOWS = sys.platform == "win32"

NOT_READY = 600  # CUDA_ERROR_NOT_READY: work is in progress, which is not an error
PREFERRED_SHARED_MEMORY_CARVEOUT = 9  # CU_FUNC_ATTRIBUTE_...
OUT_OF_MEMORY = 2  # CUDA_ERROR_...


class KernelError(Exception):
    """Kernels cannot be compiled, loaded or launched here. The message says why."""


class NoMemoryError(KernelError):
    """The device has no memory for them at the moment."""


def library_name(cuda: str) -> str:
    """The file name of NVRTC's library for CUDA version `cuda`, such as "13.0"."""
    major = cuda.split(".")[0]
    eleven = major == "11"  # the last with a minor version in the name
    if WINDOWS:
        return f"nvrtc64_{major}{2 if eleven else 0}_0.dll"
    return f"libnvrtc.so.{major}{'.2' if eleven else ''}"


def library_folders() -> Iterator[Path]:
    """Where NVRTC may be: beside torch, in NVIDIA's packages, in the CUDA toolkit."""
    beside = Path(torch.__file__).parent
    yield beside / "lib"
    for installed in dict.fromkeys([beside.parent, *(Path(entry or ".") for entry in sys.path)]):
        for pattern in ("*/bin/x86_64", "*/bin", "*/lib"):
            yield from sorted((installed / "nvidia").glob(pattern))
    toolkit = os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME")
    if toolkit:
        yield from (Path(toolkit) / name for name in ("bin/x64", "bin", "lib64"))


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """The compiler. Raises KernelError if there is none."""
    if torch.version.cuda is None:
        raise KernelError("this build of torch is not for NVIDIA GPUs")
    name = library_name(torch.version.cuda)
    paths = [folder / name for folder in library_folders()]
    for candidate in (name, *(str(path) for path in paths if path.is_file())):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise KernelError(f"{name} was not found")


@functools.cache
def driver(holding: bool = True) -> ctypes.CDLL:
    """The CUDA driver, called while holding the GIL or not. Raises KernelError if there is none."""
    kind = ctypes.PyDLL if holding else ctypes.CDLL
    try:
        return kind("nvcuda.dll" if WINDOWS else "libcuda.so.1")
    except OSError as error:
        raise KernelError(f"the CUDA driver cannot be loaded: {error}") from error


def compiled(source: str, capability: int) -> bytes:
    """`source` as machine code for the compute capability (90 for 9.0), or else as PTX.

    It takes about a second, during which other threads can run. Raises KernelError.
    """
    library = nvrtc()
    target, kind = _target(library, capability)
    program = ctypes.c_void_p()
    _check(
        library,
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"sidestream.cu", 0, None, None
        ),
    )
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={target}".encode())
        code = library.nvrtcCompileProgram(program, 1, options)
        if code != 0:
            said = _read(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            errors = [line for line in said.splitlines() if "error" in line] or [f"error {code}"]
            raise KernelError(f"NVRTC: {errors[0]}")
        return _read(library, program, kind)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _target(library: ctypes.CDLL, capability: int) -> tuple[str, str]:
    """The architecture to compile for, and the kind of code that results."""
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(known))
    if capability in known:
        return f"sm_{capability}", "CUBIN"
    older = [each for each in known if each < capability]
    if not older:
        raise KernelError(f"NVRTC does not know compute capability {capability / 10}")
    return f"compute_{max(older)}", "PTX"  # a GPU newer than NVRTC: the driver compiles the rest


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """One of a program's results: CUBIN, PTX or ProgramLog."""
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, content))
    return content.raw


def _check(library: ctypes.CDLL, code: int) -> None:
    if code != 0:
        raise KernelError(f"NVRTC failed with error {code}")


def error_name(code: int) -> str:
    """The driver's name for an error, such as CUDA_ERROR_ILLEGAL_ADDRESS."""
    name = ctypes.c_char_p()
    driver().cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"CUDA error {code}"


def call(name: str, *arguments: object, holding: bool = True) -> None:
    """Call the driver's function `name`, holding the GIL or not. Raises KernelError."""
    code = getattr(driver(holding), name)(*arguments)
    if code != 0:
        raise failure(name, code)


def failure(name: str, code: int) -> KernelError:
    """The error for a `code` of the driver's function `name`."""
    kind = NoMemoryError if code == OUT_OF_MEMORY else KernelError
    return kind(f"{name} failed with {error_name(code)}")


class Kernel:
    """A function of a module, for blocks with that many threads and bytes of shared memory."""

    def __init__(self, module: ctypes.c_void_p, name: str, threads: int, shared: int) -> None:
        self.function = ctypes.c_void_p()
        self.threads = threads
        self.shared = shared
        call("cuModuleGetFunction", ctypes.byref(self.function), module, name.encode())
        if shared:  # as much shared memory as possible, so that several blocks fit
            call("cuFuncSetAttribute", self.function, PREFERRED_SHARED_MEMORY_CARVEOUT, 100)


class Launches:
    """Kernels with their arguments, launched on `stream` in order, any number of times.

    Everything is prepared once, so that a picture only costs the driver's calls. `stream` and the
    arguments may be changed between calls: the driver copies them.
    """

    def __init__(self) -> None:
        self.stream = ctypes.c_void_p()
        self._calls: list[tuple[object, ...]] = []
        self._kept: list[object] = []

    def add(self, kernel: Kernel, across: int, down: int, *arguments: ctypes.Structure) -> None:
        """Append `kernel`, in `across` × `down` blocks."""
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._kept.append(arguments)
        grid, block = (across, down, 1), (kernel.threads, 1, 1)
        self._calls.append(
            (kernel.function, *grid, *block, kernel.shared, self.stream, addresses, None)
        )

    def __call__(self) -> None:
        """Launch them on the stream, in the current context. Raises KernelError."""
        launch = driver().cuLaunchKernel
        for arguments in self._calls:
            code = launch(*arguments)
            if code != 0:
                raise failure("cuLaunchKernel", code)


class Context:
    """A device's primary context, which torch uses, too. Entering it makes it current.

    A thread has none before its first call to CUDA's runtime, and torch may not have made any: it
    needs no call to reuse memory that it holds.
    """

    def __init__(self, index: int) -> None:
        device = ctypes.c_int()
        self._handle = ctypes.c_void_p()
        call("cuInit", 0)
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), device)

    def __enter__(self) -> None:
        call("cuCtxPushCurrent_v2", self._handle)

    def __exit__(self, *_: object) -> None:
        call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def load(image: bytes) -> ctypes.c_void_p:
    """A module with the compiled code, in the current context, until the process ends.

    Other threads can run meanwhile: the driver may compile PTX, or wait for the device.
    """
    module = ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), image, holding=False)
    return module


def fill_zero(place: int, stream: ctypes.c_void_p) -> None:
    """Set the four bytes at `place` to zero, on `stream`. Raises KernelError."""
    call("cuMemsetD32Async", ctypes.c_void_p(place), 0, ctypes.c_size_t(1), stream)


def lost(stream: ctypes.c_void_p) -> str | None:
    """The name of the error with which the current context's device has failed, if it has."""
    code = driver().cuStreamQuery(stream)
    return None if code in (0, NOT_READY) else error_name(code)
