"""Starts ComfyUI from a source tree: `python launch.py TREE ARGUMENTS...`.

It runs in the host's interpreter, so it only uses the standard library and no other module of this
package. ComfyUI ends when this process's standard input is closed: whatever happens to the process
that started it, no server is left running.
"""

from __future__ import annotations

import _thread
import ctypes
import importlib.abc
import importlib.util
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SECONDS_TO_END = 5.0
HAS_CUDA_DEVICES = "--has-cuda-devices"


def main() -> None:
    """Run the tree's main.py as if it had been started directly."""
    tree, arguments = Path(sys.argv[1]), sys.argv[2:]
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    mend_torchvision_when_imported()
    if not _accelerator_is_likely() and not {"--cpu", "--directml"} & set(arguments):
        arguments.append("--cpu")
    # Instead of this file's folder: ComfyUI expects its own modules to be importable.
    sys.path[0] = str(tree)
    sys.argv = [str(tree / "main.py"), *arguments]
    os.chdir(tree)
    runpy.run_path(sys.argv[0], run_name="__main__")


def mend_torchvision_when_imported() -> None:
    """Allow torchvision to be imported even if its operators don't match the torch build.

    This happens when it is imported, since ComfyUI sets up its environment before torch is loaded.
    """
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _define_missing_operators()


def _define_missing_operators() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    libraries = Path(spec.origin).parent.glob("_C*.*")
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        # torchvision's import fails without these two operators, which are never called here.
        definitions = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            definitions.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _define_missing_operators.keep = definitions  # type: ignore[attr-defined]


def _accelerator_is_likely() -> bool:
    """Whether torch may have an accelerator, determined without importing torch."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return True  # ComfyUI will report what is missing
    build = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    if build.get("hip") or build.get("xpu"):
        return True
    if not build.get("cuda"):
        return False
    # In another process: in ComfyUI's, nothing may initialise the driver before ComfyUI does.
    command = [sys.executable, __file__, HAS_CUDA_DEVICES]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


def _cuda_driver_has_devices() -> bool:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def _end_with_standard_input() -> None:
    # Unbuffered: a thread that holds sys.stdin's lock would break the interpreter's shutdown.
    while os.read(0, 1024):
        pass
    if sys.platform == "win32":
        _thread.interrupt_main()  # SIGINT would kill it immediately
    else:
        os.kill(os.getpid(), signal.SIGINT)  # also wakes a waiting event loop
    time.sleep(SECONDS_TO_END)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:] == [HAS_CUDA_DEVICES]:
        sys.exit(not _cuda_driver_has_devices())
    main()
