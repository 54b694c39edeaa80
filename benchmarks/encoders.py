"""How much time each JPEG encoder takes from another thread: `python -m benchmarks.encoders`.

A busy Python thread counts while pictures are encoded. By how much its count falls behind, per
picture, is what a launch-bound sampler would lose.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from PIL import Image


def pictures(side: int) -> np.ndarray:
    """A picture, uint8 [side, side, 3], about as detailed as a photograph."""
    noise = torch.randn(1, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=side, mode="bicubic")[0]
    return ((smooth * 50 + 128).clamp(0, 255).byte()).permute(1, 2, 0).contiguous().numpy()


def encoders(picture: np.ndarray) -> dict[str, Callable[[], object]]:
    """The encoders that are available here."""
    image = Image.fromarray(picture)
    found: dict[str, Callable[[], object]] = {
        "Pillow JPEG": lambda: image.save(io.BytesIO(), format="jpeg", quality=85),
        "Pillow WebP": lambda: image.save(io.BytesIO(), format="webp", quality=85, method=0),
        "Pillow PNG": lambda: image.save(io.BytesIO(), format="png", compress_level=1),
    }
    from torchvision.io import encode_jpeg

    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    found["torchvision JPEG, CPU"] = lambda: encode_jpeg(tensor, quality=85).numpy().tobytes()
    if torch.cuda.is_available():
        stream = torch.cuda.Stream()
        on_gpu = tensor.cuda().contiguous()

        def nvjpeg() -> object:
            with torch.cuda.stream(stream):
                return encode_jpeg(on_gpu, quality=85).cpu().numpy().tobytes()

        found["torchvision JPEG, nvJPEG"] = nvjpeg
    return found


def count_for(seconds: float, beside: Callable[[], object] | None) -> tuple[int, int]:
    """How far a busy thread counts in `seconds`, and how many times `beside` ran meanwhile."""
    stop = threading.Event()
    counted = 0

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        if beside is not None:
            beside()
            done += 1
        time.sleep(0.01)
    stop.set()
    thread.join()
    return counted, done


def main() -> None:
    """Print a table."""
    print("| picture | encoder | ms, alone | ms taken from a busy Python thread |")
    print("|---|---|---|---|")
    for side in (512, 1024):
        for name, encode in encoders(pictures(side)).items():
            for _ in range(5):
                encode()
            alone = []
            for _ in range(30):
                start = time.perf_counter()
                encode()
                alone.append((time.perf_counter() - start) * 1000)
            taken = []
            for _ in range(5):
                idle, _ = count_for(0.4, None)
                busy, done = count_for(0.4, encode)
                taken.append((1 - busy / idle) * 400 / done)
            print(f"| {side}² | {name} | {median(alone):.2f} | {median(taken):.2f} |", flush=True)


if __name__ == "__main__":
    main()
