"""The QR codes of the watch page's address, as another program reads them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zxingcpp
from sidestream.tests.conftest import missing

REPO = Path(__file__).resolve().parent.parent
HOOK = REPO / "tests" / "web" / "unit" / "comfy_hook.js"
ENCODER = REPO / "web" / "lib" / "media" / "qr_code.js"
LONGEST = 213  # bytes
SCRIPT = """
const { qrCode } = await import(process.argv[1]);
const numbers = (code) => code?.map((row) => row.map(Number)) ?? null;
console.log(JSON.stringify(JSON.parse(process.argv[2]).map((text) => numbers(qrCode(text)))));
"""


def codes_of(texts: list[str]) -> list[list[list[int]] | None]:
    """What the page makes of `texts`: rows of modules, 1 for dark ones."""
    node = shutil.which("node")
    if node is None:
        missing("Node.js is not installed")
    command = [node, "--import", HOOK.as_uri(), "--input-type=module", "--eval", SCRIPT]
    command += [ENCODER.as_uri(), json.dumps(texts)]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=120)
    codes: list[list[list[int]] | None] = json.loads(ran.stdout)
    return codes


def read(code: np.ndarray) -> list[str]:
    """What is found in a picture of a code, with its margin."""
    picture = np.kron(np.pad(1 - code, 4, constant_values=1), np.full((4, 4), 255))
    return [found.text for found in zxingcpp.read_barcodes(picture.astype(np.uint8))]


def test_every_length_is_read_back_also_where_part_of_it_is_damaged():
    draw = random.Random(5)
    signs = "abcxyzABCXYZ0189:/.#?-_="
    texts = ["".join(draw.choices(signs, k=length)) for length in range(1, LONGEST + 1, 4)]
    texts += ["x" * LONGEST, "https://例え.テスト/é#ключ", "http://192.168.1.20:8188/w#k"]
    codes = codes_of(texts)
    sizes = set()
    for text, code in zip(texts, codes, strict=True):
        modules = np.array(code, np.uint8)
        sizes.add(len(modules))
        assert read(modules) == [text]
        middle = len(modules) // 2
        modules[middle : middle + 3, -4:-1] ^= 1  # needs the error correction to be right
        assert read(modules) == [text]
    assert sizes == {17 + 4 * version for version in range(1, 11)}


@pytest.mark.parametrize("text", ["x" * (LONGEST + 1), "é" * LONGEST])
def test_what_is_too_long_has_none(text):
    assert codes_of([text]) == [None]
