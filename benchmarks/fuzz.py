"""Broken decoder files: does the worker survive, and at what cost?

    python dev.py fuzz [-- --cases 5000 --seed 1]

Each case writes a file of one family, broken in some way, and samples a few steps with it. The
worker must continue and show every step (with the decoder if the file is still one, otherwise with
Latent2RGB), log at most one line, and not affect the sampler's numbers.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .__main__ import name_the_pack

name_the_pack()

from sidestream.benchmarks.weights import video_decoder  # noqa: E402
from sidestream.preview.decoders import memory, taehv, taesd  # noqa: E402
from sidestream.preview.decoders.latent2rgb import Latent2RGBSource  # noqa: E402
from sidestream.tests.helpers import (  # noqa: E402
    FakeSink,
    a_book,
    an_engine,
    stage,
    start_run,
    wait_until,
)

STEPS = 2
PATIENCE = 60.0
"""Seconds to wait for a frame, as the machine may be busy."""
LINE = 500
"""The most characters of a log line."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """Narrow decoders of one kind, and their latents."""

    file: str
    channels: int
    layout: taesd.Layout | taehv.Layout

    def weights(self) -> Weights:
        """Random weights with the right names and shapes."""
        if isinstance(self.layout, taehv.Layout):
            return video_decoder(self.layout)
        return taesd.layers_of(self.layout).state_dict()

    def source(self, path: Path) -> Any:
        kind = taehv.TaehvSource if isinstance(self.layout, taehv.Layout) else taesd.TaesdSource
        return kind.of(str(path), self.channels)

    def latent(self) -> torch.Tensor:
        frames = (2,) if isinstance(self.layout, taehv.Layout) else ()
        return torch.randn(1, self.channels, *frames, 4, 4)


NARROW = (8, 8, 8, 8)
FAMILIES = [
    Family("taesd_decoder", 4, taesd.Layout(4, NARROW)),
    Family("taef1_decoder", 16, taesd.Layout(16, NARROW)),
    Family("taef2_decoder", 128, taesd.Layout(32, NARROW, pooled=True)),
    Family("taeqi2_1_decoder", 64, taesd.Layout(64, (16, 8, 4, 4), colours=4, patch=2)),
    Family("taehv", 16, taehv.Layout(16, NARROW, (1, 2, 2), 1)),
    Family("lighttaew2_2", 48, taehv.Layout(48, NARROW, (1, 2, 2), 2)),
    Family("lighttaehy1_5", 32, taehv.Layout(32, NARROW, (1, 2, 2), 2)),
    Family("taeltx_2", 128, taehv.Layout(128, NARROW, (2, 2, 2), 4)),
    Family("taesana_decoder", 32, taesd.Layout(32, (8, 8, 4, 4, 4, 4))),
    Family("taew2_2_super", 48, taehv.Layout(48, NARROW, (1, 2, 2), 2, memory.SUPER)),
    Family("taeltx2_3_wide", 128, taehv.Layout(128, NARROW, (2, 2, 2), 4, memory.WIDE)),
    Family("taesd_decoder-wide", 4, taesd.Layout(4)),
]


# --- files --------------------------------------------------------------------------------------


def safetensors(weights: Weights) -> bytes:
    """A valid .safetensors file."""
    data, header = b"", {}
    for name, weight in weights.items():
        content = weight.contiguous().numpy().tobytes()
        span = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": span}
        data += content
    return with_header(header, data)


def with_header(header: Any, data: bytes) -> bytes:
    """A .safetensors file with that header, whatever it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def taken_apart(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and data of a valid .safetensors file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pth(weights: object) -> bytes:
    """A valid .pth file of anything."""
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """An archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def bomb(members: dict[str, bytes], name: str) -> bytes:
    """An archive whose member `name` expands from a few KB to 300 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for other in members:
            if other != name:
                archive.writestr(other, members[other])
        with archive.open(name, "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    return file.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- ways to break them -------------------------------------------------------------------------


class Malicious:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (77,)


HUGE = 1_400_000
PICKLES = [
    pickle.dumps(Malicious(), 2),
    b"\x80\x02}r\xff\xff\xff\x7f.",  # an index of two billion in the memo
    b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of a terabyte
    b"\x80\x02X" + struct.pack("<I", 0xFFFFFFF0) + b"a.",  # a text of four gigabytes
    b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
    b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",
    b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00shapeK\x01sb.",
    b"\x80\x02}" + b"q\x00h\x00" * 1000 + b".",
    b"\x80\x02ccollections\nOrderedDict\n)R" + b"q\x00ccollections\nOrderedDict\nh\x00\x85R" * 999,
    b"",
    b"\x80\x02.",
]


def flipped(chance: random.Random, content: bytes, until: int | None = None) -> bytes:
    """With some bits flipped, anywhere or in the first `until` bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 20, 200])):
        place = chance.randrange(min(len(changed), until or len(changed)))
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(chance: random.Random, content: bytes) -> bytes:
    """Truncated."""
    return content[: chance.randrange(len(content))]


def shuffled(chance: random.Random, content: bytes) -> bytes:
    """With a part moved to the end."""
    a, b = sorted(chance.randrange(len(content)) for _ in range(2))
    return content[:a] + content[b:] + content[a:b]


def reshaped(chance: random.Random, weights: Weights) -> Weights:
    """With some weights missing, additional, or of other shapes, dtypes and values."""
    changed, names = dict(weights), list(weights)
    for _ in range(chance.choice([1, 1, 2, 10])):
        name = chance.choice(names)
        weight = weights[name]
        changed.pop(name, None)
        way = chance.randrange(7)
        if way == 1:
            changed[name + "_"] = weight
        elif way == 2:
            changed[name] = torch.zeros([chance.choice([0, 1, 3, 9]) for _ in weight.shape])
        elif way == 3:
            changed[name] = weight.double() * chance.choice([0.0, 1e30, float("nan")])
        elif way == 4:
            changed[name] = weight.reshape(-1)
        elif way == 5:
            changed[name] = torch.zeros(1).expand([HUGE] + [9] * (weight.ndim - 1))
        elif way == 6:
            changed[name] = weight.transpose(0, -1).contiguous().transpose(0, -1)
    return changed


def lying(chance: random.Random, content: bytes) -> bytes:
    """With a header that is wrong about a weight."""
    header, data = taken_apart(content)
    name = chance.choice(list(header))
    header[name] = {
        "dtype": chance.choice(["F32", "F64", "I8", "F8_E4M3", "", 7, None]),
        "shape": chance.choice(
            [[HUGE, 9, 3, 3], [-1], [2**70], [0], "x", None, [1.5], [[1]], [8] * 99, [True]]
        ),
        "data_offsets": chance.choice([[0, 4], [4, 0], [-8, 0], [0, 2**62], [0], "ab", None]),
    }
    if chance.random() < 0.5:
        header[name] = chance.choice([None, 1, [], "text", {}, {"dtype": "F32"}])
    return with_header(header, data)


def odd_header(chance: random.Random, content: bytes) -> bytes:
    """With an invalid header, or one that is far too large."""
    _, data = taken_apart(content)
    header = chance.choice(
        [
            b"{" * 60_000,
            b'{"a":' * 60_000,
            b'{"a":' + b"[" * 60_000,
            b'{"x":' + b"9" * 60_000 + b"}",
            b'{"' + b"forged line\\n" * 60_000 + b'":1}',
            b'{"\xff\xfe":1}',
            b"{}",
            b"{",
            json.dumps({f"{i}.weight": [] for i in range(30_000)}).encode(),
        ]
    )
    return with_header(header, data)


def odd_archive(chance: random.Random, content: bytes) -> bytes:
    """An archive in which something is missing, wrong or far too large."""
    members = members_of(content)
    listing = next(name for name in members if name.endswith("data.pkl"))
    way = chance.randrange(7)
    if way == 0:
        members[listing] = chance.choice(PICKLES)
    elif way == 1:
        members[listing] = flipped(chance, members[listing])
    elif way == 2:  # numbers of storages and shapes
        for number in (4, 8, 64, 576):
            old = b"M" + struct.pack("<H", number) if number > 255 else bytes([ord("K"), number])
            members[listing] = members[listing].replace(old, b"J\xff\xff\xff\x7f")
    elif way == 3:
        name = chance.choice(list(members))
        members[name] = members[name][: len(members[name]) // 2]
    elif way == 4:
        members.pop(chance.choice(list(members)))
    elif way == 5:
        return bomb(members, chance.choice(list(members)))
    else:
        return zipped({f"{i}/data.pkl": b"" for i in range(20_000)})
    return zipped(members)


OTHERS = [
    b"",
    b"\x00" * 100,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
    b"<!DOCTYPE html><html>",
    b"\x89PNG\r\n\x1a\n" + bytes(100),
    b"PK\x05\x06" + bytes(18),
    b"PK\x03\x04" + b"\xff" * 200,
    struct.pack("<Q", 1 << 60) + b"{}",
    "models/vae \U0001f600\n[SideStream] forged\n".encode() * 50,
    pickle.dumps({"1.weight": [1]}),
]


def write_case(chance: random.Random, family: Family, path: Path) -> None:
    """Write a broken file of `family` to `path`."""
    weights = family.weights()
    way = chance.randrange(12)
    if way == 0:
        path.write_bytes(chance.choice(OTHERS))
        return
    if way == 1:
        not_a_file: list[Callable[[Path], object]] = [os.mkdir, os.mkfifo, lambda path: None]
        chance.choice(not_a_file)(path)
        return
    if way == 2:
        sparse(chance, family, path)
        return
    if way == 3:
        other = chance.choice(FAMILIES)
        path.write_bytes(chance.choice([safetensors, pth])(other.weights()))
        return
    if way in (4, 5):
        path.write_bytes(pth(reshaped(chance, weights)))
        return
    if way == 6:
        changed = reshaped(chance, weights)
        small = {name: weight for name, weight in changed.items() if weight.numel() < HUGE}
        path.write_bytes(safetensors({name: weight.float() for name, weight in small.items()}))
        return
    ways: list[Callable[[random.Random, bytes], bytes]] = [flipped, cut, shuffled]
    if chance.random() < 0.5:
        good = safetensors(weights)
        ways += [lying, odd_header, lambda chance, content: flipped(chance, content, 4000)]
    else:
        good = pth(weights)
        ways += [odd_archive, odd_archive, odd_archive]
    path.write_bytes(chance.choice(ways)(chance, good))


def sparse(chance: random.Random, family: Family, path: Path) -> None:
    """A sparse file of a few KB on disk that, by its header and size, has gigabytes of weights."""
    times = chance.choice([16, 64, 1000, HUGE // 8])
    header, place = {}, 0
    for name, weight in family.weights().items():
        shape = [length * times if length > 3 else length for length in weight.shape]
        if chance.random() < 0.1:
            shape[0] = HUGE
        numbers = 4
        for length in shape:
            numbers *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + numbers]}
        place += numbers
    content = with_header(header, b"")
    path.write_bytes(content)
    os.truncate(path, min(len(content) + place, 1 << 42))


# --- the worker ---------------------------------------------------------------------------------


class Lines(logging.Handler):
    """Collects what the pack logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@dataclass
class Result:
    """The results of all cases."""

    cases: int = 0
    decoded: int = 0
    """Cases in which the file was still a decoder."""
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    """Seconds of the slowest case."""
    memory_mb: float = 0.0
    """The increase of the peak of resident memory."""
    messages: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def peak_mb() -> float:
    """The peak of resident memory so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Fuzz:
    """A worker that is given one broken file after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = Lines()
        logging.getLogger("sidestream").addHandler(self._lines)
        logging.getLogger("sidestream").propagate = False
        self._sink = FakeSink(animated=False)
        self._book = a_book()
        self._engine = an_engine(self._sink)

    def close(self) -> None:
        logging.getLogger("sidestream").removeHandler(self._lines)
        self._engine.close()

    def case(self, seed: str, result: Result) -> None:
        """One file and a few steps with it; faults are added to `result.faults`."""
        chance = random.Random(seed)
        torch.manual_seed(1)  # for the weights
        family = chance.choice(FAMILIES)
        kind = chance.choice([".pth", ".safetensors", ".pt", "\udcff.pth", " \U0001f600.pth"])
        path = self._folder / f"{family.file}-{seed}{kind}"
        write_case(chance, family, path)
        alone = self._sampled(family, None)
        self._sink.frames.clear()
        self._lines.said.clear()
        factors = [[0.1, 0.2, 0.3]] * family.channels
        rough = Latent2RGBSource("Fuzz", factors, None, None, 8)
        run = start_run(self._book, family.source(path), rough)
        beside = self._sampled(family, run)
        run.end()
        self._check(result, seed, alone == beside)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    def _sampled(self, family: Family, run: Any) -> bytes:
        """The numbers of a stand-in for a sampler, with the previews of `run` if that is given."""
        torch.manual_seed(2)
        latent = family.latent()
        for step in range(STEPS):
            latent = latent * 0.9 + torch.randn_like(latent) * 0.1
            if run is not None:
                run.at(step + 1, STEPS)
                stage(self._engine, run, latent)
                wait_until(lambda: run.open_frames == 0, PATIENCE)
        return bytes(latent.numpy().tobytes() + torch.get_rng_state().numpy().tobytes())

    def _check(self, result: Result, seed: str, is_same: bool) -> None:
        frames, said = self._sink.frames, self._lines.said
        decoders = {frame.info.decoder for frame in frames}
        faults = {
            "the worker died": not self._engine.alive,
            f"{len(frames)} of {STEPS} frames": len(frames) != STEPS,
            "the sampler's numbers differ": not is_same,
            f"{len(said)} lines": len(said) > 1,
            "nothing was logged": not said and decoders == {"latent2rgb"},
            "a line that is long, broken or not ASCII": any(
                len(line) > LINE or "\n" in line or not line.isascii() for line in said
            ),
        }
        result.faults += [f"{seed}: {fault} {said}" for fault, is_so in faults.items() if is_so]
        result.cases += 1
        result.decoded += "latent2rgb" not in decoders
        result.refused += "latent2rgb" in decoders
        for line in said:
            about = line.partition("; this run")[0]
            result.messages[(about.partition(": ")[2] or about)[-60:]] += 1


def fuzz(cases: int, seed: int) -> Result:
    """Run that many cases, each of which can be repeated by its name."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="sidestream-fuzz-") as folder:
        going = Fuzz(Path(folder))
        try:
            for number in range(5):  # for one-time costs
                going.case(f"warm-{number}", Result())
            before, start = peak_mb(), time.monotonic()
            for number in range(cases):
                began = time.monotonic()
                going.case(f"{seed}-{number}", result)
                result.slowest = max(result.slowest, round(time.monotonic() - began, 2))
            result.seconds = round(time.monotonic() - start, 1)
            result.memory_mb = round(peak_mb() - before, 1)
        finally:
            going.close()
    return result


def main() -> int:
    """Fuzz according to the command line; returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="dev.py fuzz --")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="instead of lines")
    options = parser.parse_args()
    result = fuzz(options.cases, options.seed)
    if options.json:
        print(json.dumps(vars(result)))
    else:
        for name, value in vars(result).items():
            if name not in ("messages", "faults"):
                print(f"{name.replace('_', ' ')}: {value:,}")
        for message, count in result.messages.most_common(30):
            print(f"  {count:5} {message}")
        for fault in result.faults[:50]:
            print(f"FAULT {fault}")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
