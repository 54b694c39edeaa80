"""A process that takes the GPU's memory, to measure with as little of it as on a small card."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

FILLER = """
import sys, torch
free, total = torch.cuda.mem_get_info(0)
kept = torch.empty(max(0, free - int(float(sys.argv[1]) * 2**30)), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info(0)[0] / 2**30, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def filled_card(left_gb: float) -> Iterator[float]:
    """Let another process take all but `left_gb` of the first GPU's memory. Yields what is left."""
    filler = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(left_gb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert filler.stdin is not None
    assert filler.stdout is not None
    try:
        yield float(filler.stdout.readline())
    finally:
        filler.stdin.close()
        filler.wait(60)
