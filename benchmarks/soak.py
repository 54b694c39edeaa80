"""Many runs of all kinds in one process: does anything grow?

    python dev.py soak [-- --runs 1000 --steps 50]

The engine and the transport are the pack's own; samplers, decoders and the server are stand-ins.
The server sends over real sockets, to clients that read, clients that don't, and clients that come
and go.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .__main__ import name_the_pack

name_the_pack()

from sidestream.preview.capture.runs import Run, Runs, RunSpec, SettingsLayers  # noqa: E402
from sidestream.preview.decoders.cache import DecoderCache  # noqa: E402
from sidestream.preview.decoders.protocols import DecoderError  # noqa: E402
from sidestream.preview.deliver.transport import Transport  # noqa: E402
from sidestream.preview.records import (  # noqa: E402
    NodeContext,
    Socket,
    now,
)
from sidestream.preview.render import worker as engine_module  # noqa: E402
from sidestream.preview.render.backends import backends_for  # noqa: E402
from sidestream.preview.render.worker import Engine  # noqa: E402

CPU = torch.device("cpu")
WARM_UP = 0.1
"""The share of the runs before the first measurement, to fill caches."""


class Client:
    """A connection with both ends in this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reads: bool) -> None:
        self.ours, self._theirs = socket.socketpair()
        for end in (self.ours, self._theirs):
            end.setblocking(False)
        # A small buffer, so that sending to a client that does not read soon blocks.
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.turn = asyncio.Lock()  # one message at a time
        self.bytes = 0
        self._reading = asyncio.run_coroutine_threadsafe(self._read(loop), loop) if reads else None

    async def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(OSError):
            while data := await loop.sock_recv(self._theirs, 1 << 16):
                self.bytes += len(data)

    async def close(self) -> None:
        """Disconnect; must be called on the loop."""
        if self._reading is not None:
            self._reading.cancel()
        self._theirs.close()
        await asyncio.sleep(0.02)  # for pending sends to notice
        self.ours.close()


class Server:
    """What the transport needs from ComfyUI's server."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.idle = False
        self._clients: dict[str, Client] = {}
        self._running: set[str] = set()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def connect(self, name: str, reads: bool = True) -> Client:
        """Connect a client with that name."""
        client = self._clients[name] = Client(self.loop, reads)
        return client

    def disconnect(self, name: str) -> None:
        """Disconnect that client, if it is connected."""
        client = self._clients.pop(name, None)
        if client is not None:
            asyncio.run_coroutine_threadsafe(client.close(), self.loop).result(10)

    @contextmanager
    def node(self, prompt: str) -> Iterator[None]:
        """That prompt runs during the block."""
        self._running.add(prompt)
        try:
            yield
        finally:
            self._running.discard(prompt)

    def close(self) -> None:
        for name in list(self._clients):
            self.disconnect(name)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def sockets(self, client_id: str | None) -> list[Socket]:
        clients = list(self._clients.items())
        return [Socket(name, c, True) for name, c in clients if client_id in (None, name)]

    def connected(self, client_id: str | None) -> bool:
        return bool(self.sockets(client_id))

    def is_running(self, prompt_id: str | None, node_id: str | None) -> bool:
        return prompt_id in self._running

    def may_show_late(self, prompt_id: str | None, node_id: str | None) -> bool:
        return False

    def is_idle(self) -> bool:
        return not self._running

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def send_bytes(self, event: int, data: bytes, socket: Socket) -> bool:
        await self._send(socket, data)
        return True

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> bool:
        await self._send(socket, json.dumps(data).encode())
        return True

    async def _send(self, to: Socket, data: bytes) -> None:
        assert isinstance(to.connection, Client)
        async with to.connection.turn:
            await self.loop.sock_sendall(to.connection.ours, data)


class Grey:
    """A decoder that shows a latent's first channel, or fails."""

    scale, light, frames_each = 8, True, 2

    def __init__(self, breaks: bool = False) -> None:
        self._breaks = breaks

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        if self._breaks:
            raise RuntimeError("broken")
        picture = latent[0, :1, 0] if latent.ndim == 5 else latent[0, :1]
        return picture.expand(3, -1, -1)

    def visible_frames(self, index: int) -> range:
        return range(2)

    def streaming(self) -> StreamingVideoDecoder:
        return StreamingVideoDecoder()


class StreamingVideoDecoder:
    """Grey pictures, two per latent frame."""

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        return latent[0, :2, 0][:, None].expand(-1, 3, -1, -1)

    def rewind(self) -> None:
        pass


@dataclass(frozen=True)
class Source:
    """Loads a `Grey`, or fails."""

    name: str

    @property
    def key(self) -> Hashable:
        return (self.name,)

    def dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32

    def load(self, device: torch.device) -> Grey:
        if self.name == "damaged":
            raise DecoderError("damaged")
        return Grey(breaks=self.name == "breaking")


@dataclass(frozen=True)
class Sample:
    """What the process holds at one point in time, while idle."""

    runs: int
    captured: int
    sent: int
    threads: int
    files: int
    sockets: int
    objects: int
    rss_mb: float
    pinned_kb: float
    vram_kb: float
    """Held by tensors."""
    reserved_vram_kb: float
    """Held by torch, including the memory of recorded graphs and what is free for reuse."""


def measured(book: Runs) -> Sample:
    """The process as it is now."""
    gc.collect()
    counters = book.counters()
    frames = counters["frames"]
    pinned = vram = reserved = 0
    if torch.cuda.is_available():
        vram, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        if hasattr(torch.cuda, "host_memory_stats"):
            # What torch owns; torch 2.11 counts everything ever allocated as active.
            pinned = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
    handles = [path for path in Path("/proc/self/fd").glob("*") if path.is_symlink()]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        runs=counters["runs"],
        captured=sum(frames.values()),
        sent=frames.get("sent", 0),
        threads=threading.active_count(),
        files=len(handles),
        sockets=sum(_leads_to_socket(handle) for handle in handles),
        objects=len(gc.get_objects()),
        rss_mb=round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        pinned_kb=pinned / 1e3,
        vram_kb=vram / 1e3,
        reserved_vram_kb=reserved / 1e3,
    )


def _leads_to_socket(handle: Path) -> bool:
    try:
        return os.readlink(handle).startswith("socket:")
    except OSError:  # the handle of the listing itself
        return False


class Soak:
    """The pack's engine and transport, between stand-ins."""

    CLIENTS = ("reads", "also reads", "does not read")

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        has_cuda = torch.cuda.is_available()  # a latent's device always has an index
        self._device = torch.device("cuda", torch.cuda.current_device()) if has_cuda else CPU
        self._server = Server()
        for name in self.CLIENTS:
            self._connect(name)
        transport = Transport(self._server, lambda: self._engine.notify())
        self.book = Runs(
            lambda run: transport.announce(run, "start"), lambda run: transport.announce(run, "end")
        )
        self._engine = Engine(backends_for(self._device, self._device), DecoderCache(), transport)

    def close(self) -> None:
        self._engine.close(10)
        self._server.close()

    def _connect(self, name: str) -> None:
        self._server.connect(name, reads=name != "does not read")

    def samplings(self, count: int, steps: int) -> None:
        """That many runs of random kinds."""
        for _ in range(count):
            self._sample(steps)

    def rest(self) -> Sample:
        """Wait until the worker has freed its working memory, and measure."""
        # The client that does not read disconnects, together with what was being sent to it.
        self._server.disconnect("does not read")
        end = time.monotonic() + 30
        while self.book.counters()["active_runs"] and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(4 * engine_module.IDLE_SECONDS)
        sample = measured(self.book)
        self._connect("does not read")
        return sample

    def _sample(self, steps: int) -> None:
        pick = self._chance.choice
        client = pick([*self.CLIENTS, "reads", "also reads", "nobody"])
        kind = pick(["still", "still", "grid", "played", "video"])
        side = pick([8, 16, 24])
        shape = {"still": (1, 4), "video": (1, 4, 4)}.get(kind, (4, 4))
        settings = {
            "throttle_ms": 0,
            "budget": pick([0, 0, 50]),
            "format": pick(["jpeg", "webp", "png"]),
            "batch": {"grid": "grid", "played": "animation"}.get(kind, "first"),
            "video_frames": pick([0, 1, 4]),
            "max_size": pick([0, 64, 96]),
        }
        names = pick([["good"], ["good"], ["breaking", "good"], ["damaged", "good"], ["breaking"]])
        prompt = os.urandom(4).hex()
        plan = RunSpec(
            NodeContext(prompt, "1", client_id=client),
            SettingsLayers(node=settings),
            lambda asked: [Source(name) for name in names],
            default_size=512,
        )
        change, leave = (pick([None, None, self._chance.randrange(steps)]) for _ in range(2))
        images = range(4 if kind in ("grid", "played") else 1)
        with self._server.node(prompt), torch.inference_mode():
            run = self.book.start(plan)
            latent = torch.rand(*shape, side, side, device=self._device)
            for step in range(steps):
                run.at(step + 1, steps)
                self._callback(run, latent, images)
                if step == change:
                    self.book.change(client, {"method": pick(["auto", "latent2rgb"]), "fps": 8})
                if step == leave and client != "nobody":
                    self._server.disconnect(client)
                    self._connect(client)
            if self._chance.random() < 0.1:
                run.abort()
            run.end()

    def _callback(self, run: Run, latent: torch.Tensor, images: range) -> None:
        if not run.wants(now()):
            return
        frame = self._engine.capture(run, latent, images)
        if frame is not None:
            self._engine.publish(frame)
            end = time.monotonic() + 0.003  # a step of the sampler
            while run.is_open(frame.label) and time.monotonic() < end:
                time.sleep(0.0002)


def soak(count: int, steps: int) -> list[Sample]:
    """The process after the warm-up, in the middle, and at the end."""
    logging.disable(logging.CRITICAL)  # everything that fails here is meant to
    engine_module.IDLE_SECONDS = 0.25
    going = Soak(seed=1)
    samples = []
    done = 0
    try:
        for until in (round(count * WARM_UP), (count + 1) // 2, count):
            going.samplings(until - done, steps)
            done = until
            samples.append(going.rest())
    finally:
        going.close()
    return samples


def table(samples: list[Sample]) -> str:
    """A Markdown table with a row for each quantity."""
    lines = ["| | after the warm-up | in the middle | at the end |", "|---|---:|---:|---:|"]
    for name in [field.name for field in fields(Sample)]:
        values = [f"{getattr(sample, name):,}" for sample in samples]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> int:
    """Soak according to the command line, and print the measurements."""
    parser = argparse.ArgumentParser(prog="dev.py soak --")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--json", action="store_true", help="instead of a table")
    options = parser.parse_args()
    samples = soak(options.runs, options.steps)
    if not samples[-1].sent:
        raise SystemExit(f"No frame was sent of {samples[-1].captured}: this soak says nothing.")
    if options.json:
        print(json.dumps([asdict(sample) for sample in samples]))
    else:
        print(table(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
