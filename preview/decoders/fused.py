"""TAESD's decoder in a few kernels of our own (fused.cu), from the latent to the picture.

With torch a picture takes about 45 operations, and for each of them the worker releases the GIL and
has to get it back from the sampler. These kernels are launched without releasing it, on any thread
and with any allocator, and no graph is recorded. Where they are unavailable, torch decodes.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import logging
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import nvrtc
from .nvrtc import Context, Kernel, KernelError, Launches

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cu")
OLDEST = 75  # Turing: the first with the matrix products that the kernels use

WIDTH = 64
TAPS = 9
STAGES = 3
BLOCKS = 3  # residual blocks per stage, of three convolutions each
CONVOLUTIONS = 1 + STAGES * (3 * BLOCKS + 1) + 3  # without the last one
UPSAMPLED = tuple((3 * BLOCKS + 1) * stage for stage in range(1, STAGES + 1))
"""The convolutions, counted from 0, that follow an upsampling."""

BAND = 16 << 20
"""Bytes of a layer of which more is made in bands, one after the other, to take less memory."""
LEAST_ROWS = 128
"""Of a band: neighbouring ones compute some rows twice, 8 or 28 for most pictures."""
WHOLE = 1 << 30  # more rows than any picture has

# The same as in fused.cu.
NOTHING = 1 << 62
ACROSS = 16
TAP_BYTES = WIDTH * WIDTH * 2
OUTPUTS = 8  # of the last convolution, padded for the matrix product; three are used

Pictured = tuple[torch.Tensor, torch.Tensor]
"""A picture, uint8 [height, width, 3], and the number of unknown positions or pixels, int32 []."""


class UnsuitableError(Exception):
    """The kernels do not support this decoder or device. The message says why."""


class Places(ctypes.Structure):
    """The addresses of a picture's data; fused.cu explains this and the following structures."""

    _fields_ = (
        ("latent", ctypes.c_void_p),
        ("memory", ctypes.c_void_p),
        ("picture", ctypes.c_void_p),
        ("unknown", ctypes.c_void_p),
    )


class Enter(ctypes.Structure):
    """The work of the kernel `enter`."""

    _fields_ = (
        ("to", ctypes.c_longlong),
        ("channels", ctypes.c_int),
        ("pixels", ctypes.c_int),
    )


class Rows(ctypes.Structure):
    """The rows of a result that are computed."""

    _fields_ = (("top", ctypes.c_int), ("bottom", ctypes.c_int))


class Convolution(ctypes.Structure):
    """The work of the kernels `convolve_…`."""

    _fields_ = (
        ("source", ctypes.c_longlong),
        ("to", ctypes.c_longlong),
        ("add", ctypes.c_longlong),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("rows", Rows),
        ("up", ctypes.c_int),
        ("relu", ctypes.c_int),
    )


class Leave(ctypes.Structure):
    """The work of the kernel `leave`."""

    _fields_ = (
        ("source", ctypes.c_longlong),
        ("to", ctypes.c_longlong),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("doublings", ctypes.c_int),
        ("rows", Rows),
        ("channels", ctypes.c_int),
    )


class Finish(ctypes.Structure):
    """The work of the kernel `finish`."""

    _fields_ = (
        ("source", ctypes.c_longlong),
        ("source_height", ctypes.c_int),
        ("source_width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
    )


class Kernels:
    """The kernels on one device. They are compiled once per process, in a separate thread."""

    def __init__(self, index: int) -> None:
        major, minor = torch.cuda.get_device_capability(index)
        self._index = index
        self._image = compiling(10 * major + minor)
        self.given_up = False

    def compiled(self) -> bool:
        """Whether they can be loaded without waiting."""
        return self._image.done()

    def give_up(self, error: KernelError) -> None:
        """Stop using them on this device, and log why once."""
        if not self.given_up:
            log.warning(
                "[SideStream] TAESD's GPU kernels cannot be used (%s); PyTorch decodes instead,"
                " which takes more of the sampler's time.",
                error,
            )
        self.given_up = True

    @functools.cached_property
    def context(self) -> Context:
        """The context in which they are launched. Raises KernelError."""
        return Context(self._index)

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The kernels, ready to launch. Waits for the compiler. Raises KernelError."""
        image = self._image.result()
        with self.context:
            return Loaded(image, self._index)


class Loaded:
    """The functions of fused.cu, on a device."""

    def __init__(self, image: bytes, index: int) -> None:
        self.multiprocessors = torch.cuda.get_device_properties(index).multi_processor_count
        module = nvrtc.load(image)
        leave_bytes = TAPS * OUTPUTS * WIDTH * 2 + tile_bytes(8)
        self.enter = Kernel(module, "enter", 128, 0)
        self.small = Kernel(module, "convolve_4_rows", 128, 2 * TAP_BYTES + tile_bytes(4))
        self.large = Kernel(module, "convolve_8_rows", 128, 2 * TAP_BYTES + tile_bytes(8))
        self.leave = Kernel(module, "leave", 128, leave_bytes)
        self.finish = Kernel(module, "finish", 128, 0)


@functools.cache
def kernels_on(index: int) -> Kernels:
    """The kernels of the CUDA device `index`. Raises UnsuitableError."""
    if torch.version.cuda is None:
        raise UnsuitableError("the kernels are for NVIDIA devices")
    major, minor = torch.cuda.get_device_capability(index)
    if 10 * major + minor < OLDEST:
        raise UnsuitableError(f"compute capability {major}.{minor} is below 7.5")
    return Kernels(index)


@functools.cache
def compiling(capability: int) -> Future[bytes]:
    """The machine code for a compute capability; the first call starts a thread to compile it."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(nvrtc.compiled(SOURCE.read_text("utf-8"), capability))
        except KernelError as error:
            future.set_exception(error)
        except Exception as error:
            future.set_exception(KernelError(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=work, name="SideStream compiler", daemon=True)
    thread.start()
    atexit.register(thread.join, 10)  # the compiler must not run while its library shuts down
    return future


class Plan:
    """All launches for latents of one size, and where they find their data.

    What follows the last enlargement takes the most memory, so it is made in bands of rows. To the
    last convolution, each of those before it gives one more row on both sides of a band.
    """

    def __init__(
        self,
        loaded: Loaded,
        weights: Sequence[torch.Tensor],
        shape: Sequence[int],
        size: tuple[int, int],
        skipped: int,
    ) -> None:
        channels, h, w = shape[-3:]
        doublings = STAGES - skipped
        self._height, self._width = h << doublings, w << doublings
        width, height = size
        if self._width <= width and self._height <= height:
            width, height = self._width, self._height
        self.picture = (height, width, 3)
        self.places = Places()
        self.launches = Launches()
        self._loaded = loaded
        self._weights = [each.data_ptr() for each in weights]
        self._enlarged = UPSAMPLED[:doublings]

        # Whole layers, up to the last enlargement.
        split = UPSAMPLED[doublings - 1] if doublings else CONVOLUTIONS
        whole = (self._height * self._width * WIDTH * 2) >> (2 if doublings else 0)  # bytes
        x, first = 0, whole
        if sum(i < split for i in (0, *UPSAMPLED)) % 2:  # so that the result is at 0
            x, first = first, x
        enter = Enter(x, channels, h * w)
        self._add(loaded.enter, blocks(h * w, loaded.enter.threads), 1, enter)
        self._convolve(range(split), (h, w), (x, first, x, 2 * whole))

        # Then bands of them. Their three places follow that result.
        row = self._width * WIDTH * 2
        limit = max(LEAST_ROWS, BAND // row) if doublings else self._height
        bands = bands_of(self._height, limit, CONVOLUTIONS - split)
        place = max(band.end - band.begin for band in bands) * row if doublings else 0
        made = max(3 * whole, whole + 3 * place)
        self.unknown = made + self._height * self._width * 4 * 2
        self.painted = self.unknown + 16
        self.bytes = self.painted + height * width * 3
        half = (self._height // 2, self._width // 2)
        for band in bands:
            rows = Rows(band.top, band.bottom)
            row_0 = whole - band.begin * row  # where it would be in the first place
            places = (0, row_0, row_0 + place, row_0 + 2 * place)
            x = self._convolve(range(split, CONVOLUTIONS), half, places, band.top, band.bottom)
            leave = Leave(
                x, made, *self._weights[2:], self._height, self._width, doublings, rows, channels
            )  # fmt: skip
            down = blocks(band.bottom - band.top, 8)
            self._add(loaded.leave, blocks(self._width, ACROSS), down, leave)

        finish = Finish(made, self._height, self._width, height, width)
        self._add(loaded.finish, blocks(width, loaded.finish.threads), height, finish)

    def _convolve(
        self,
        numbers: range,
        size: tuple[int, int],
        places: Sequence[int],
        top: int = 0,
        bottom: int = WHOLE,
    ) -> int:
        """Add convolutions, and return where their result is; at first, `size` is height and width.

        `places` are the first one's source and three for layers, of which the second may be the
        source's. Of the result, those rows are right that the last convolution needs for `top` to
        `bottom`.
        """
        h, w = size
        x, first, spare, second = places
        for i in numbers:
            up = i in self._enlarged
            if up:
                h, w = h * 2, w * 2
            upsampled = i in UPSAMPLED
            if upsampled or i == 0:
                source, to, add = x, first, NOTHING
                x, first, spare = first, spare, first
            else:
                place = (i - 1) % (3 * BLOCKS + 1) % 3  # within a residual block
                source, to, add = (
                    (x, first, NOTHING), (first, second, NOTHING), (second, x, x)
                )[place]  # fmt: skip
            beyond = CONVOLUTIONS - i
            rows = Rows(max(0, top - beyond), min(bottom + beyond, h))
            inner, bias, *_ = self._weights
            work = Convolution(
                source, to, add, inner + i * TAPS * TAP_BYTES, bias + i * WIDTH * 4,
                h, w, rows, up, not upsampled,
            )  # fmt: skip
            height = rows.bottom - rows.top
            across, down = blocks(w, ACROSS), blocks(height, 8)
            if 2 * across * down > self._loaded.multiprocessors:
                self._add(self._loaded.large, across, down, work)
            else:  # small tiles, to keep more of the device busy
                self._add(self._loaded.small, across, blocks(height, 4), work)
        return x

    def _add(self, kernel: Kernel, across: int, down: int, work: ctypes.Structure) -> None:
        self.launches.add(kernel, across, down, work, self.places)


class Band(NamedTuple):
    """Rows of a picture, and those that the first of its convolutions has to give for them."""

    top: int
    bottom: int
    begin: int
    end: int


def bands_of(height: int, limit: int, beyond: int) -> list[Band]:
    """The bands of a picture, of similar heights up to `limit`, with `beyond` convolutions each."""
    rows = blocks(height, blocks(height, limit))
    return [
        Band(top, min(top + rows, height), max(0, top - beyond), min(top + rows + beyond, height))
        for top in range(0, height, rows)
    ]


class FusedTaesd:
    """TAESD on a device, decoded by the kernels."""

    PLANS = 8

    def __init__(self, kernels: Kernels, channels: int, weights: Sequence[torch.Tensor]) -> None:
        self._channels = channels
        self._loaded = kernels.loaded
        self._context = kernels.context
        self._weights = weights
        self._plans: dict[Hashable, Plan] = {}
        self._kept: tuple[int, torch.Tensor] | None = None
        """The last picture's stream, and its memory."""
        self._lock = threading.Lock()  # a plan is for one picture at a time

    @classmethod
    def of(cls, layers: nn.Sequential, device: torch.device) -> FusedTaesd:
        """The decoder with `layers`, which are on `device`. Waits for the compiler.

        Raises UnsuitableError if the kernels do not support it, KernelError if they don't work.
        """
        convolutions = suitable(layers)
        if device.type != "cuda":
            raise UnsuitableError(f"the kernels are for NVIDIA devices, not for {device}")
        stream = torch.cuda.current_stream(device)
        kernels = kernels_on(stream.device_index)
        with torch.inference_mode():
            made = cls(kernels, convolutions[0].in_channels, arranged(convolutions))
        stream.synchronize()  # once, so that other streams can read the weights
        return made

    def __call__(self, latent: torch.Tensor, width: int, height: int, skipped: int) -> Pictured:
        """The picture of `latent` [1, C, h, w], without the last `skipped` upsamplings.

        A larger picture is shrunk to `width` × `height`. Apart from rounding, the result is that of
        `job.RenderJob`. The work is put onto the current stream; nothing waits. There, the result
        is valid until the next call. Raises KernelError if a kernel cannot be launched,
        RuntimeError if the device has failed.
        """
        if latent.dtype != torch.float16 or latent.shape[:-2] != (1, self._channels):
            raise UnsuitableError(f"a latent {list(latent.shape)} of {latent.dtype}")
        stream = torch.cuda.current_stream(latent.device).cuda_stream
        with self._lock, self._context:
            try:
                return self._to_picture(latent.contiguous(), (width, height), skipped, stream)
            except KernelError as error:
                lost = nvrtc.lost(ctypes.c_void_p(stream))
                if lost is not None:
                    raise RuntimeError(f"the device failed with {lost}") from error
                raise

    def _to_picture(
        self, latent: torch.Tensor, size: tuple[int, int], skipped: int, stream: int
    ) -> Pictured:
        plan = self._plan(latent.shape, size, skipped)
        memory = self._memory(plan.bytes, latent.device, stream)
        picture = memory[plan.painted : plan.bytes].view(plan.picture)
        unknown = memory[plan.unknown : plan.unknown + 4].view(torch.int32)[0]
        places, launches = plan.places, plan.launches
        places.latent, places.memory = latent.data_ptr(), memory.data_ptr()
        places.picture, places.unknown = picture.data_ptr(), unknown.data_ptr()
        launches.stream.value = stream
        nvrtc.fill_zero(places.unknown, launches.stream)
        launches()
        return picture, unknown

    def _memory(self, size: int, device: torch.device, stream: int) -> torch.Tensor:
        """At least `size` bytes, those of the last picture if they suffice.

        DynamicVRAM makes room for each large allocation, and the sampler then has to load the
        weights that were there again. What other streams used is only for later work there.
        """
        if self._kept is not None:
            used_on, memory = self._kept
            if used_on == stream and size <= memory.numel() <= 2 * size:
                return memory
            self._kept = None
            del memory  # there may be no room for both
        memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._kept = stream, memory
        return memory

    def rest(self) -> None:
        """Free the memory that is kept from one picture to the next."""
        with self._lock:
            self._kept = None

    def _plan(self, shape: torch.Size, size: tuple[int, int], skipped: int) -> Plan:
        key = (shape, size, skipped)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) == self.PLANS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[key] = Plan(self._loaded, self._weights, shape, size, skipped)
        return plan


def tile_bytes(rows: int) -> int:
    """The shared memory of a tile of that many rows, including its border."""
    return (rows + 2) * (ACROSS + 2) * (WIDTH * 2 + 16)


def blocks(size: int, each: int) -> int:
    """How many blocks of `each` cover `size`."""
    return -(-size // each)


class WhenReady:
    """A decoder that uses the kernels as soon as they are compiled, if they support it."""

    def __init__(self, layers: nn.Sequential) -> None:
        self._layers = layers
        self._fused: FusedTaesd | None = None
        try:
            suitable(layers)
            self._unsuitable = False
        except UnsuitableError:
            self._unsuitable = True

    def to_picture(
        self, latent: torch.Tensor, width: int, height: int, skipped: int
    ) -> Pictured | None:
        """As `FusedTaesd`; None while the kernels are not ready, or for good.

        Also None if memory is short: torch may find another way, or raises. Raises only errors of
        the device.
        """
        if self._unsuitable or latent.device.type != "cuda" or latent.dtype != torch.float16:
            return None
        try:
            kernels = kernels_on(latent.device.index)
            if kernels.given_up or not kernels.compiled():
                return None
            if self._fused is None:
                if torch.cuda.is_current_stream_capturing():
                    return None  # nothing may be loaded or waited for
                self._fused = FusedTaesd.of(self._layers, latent.device)
            return self._fused(latent, width, height, skipped)
        except UnsuitableError:
            self._unsuitable = self._fused is None  # otherwise it is only this latent
        except (nvrtc.NoMemoryError, torch.cuda.OutOfMemoryError):
            pass
        except KernelError as error:
            kernels.give_up(error)
        return None

    def rest(self) -> None:
        """As `FusedTaesd.rest`."""
        if self._fused is not None:
            self._fused.rest()


def suitable(layers: nn.Sequential) -> list[nn.Conv2d]:
    """The convolutions of TAESD's decoder, in order. Raises UnsuitableError."""
    found = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
    shapes = [tuple(layer.weight.shape) for layer in found]
    channels = shapes[0][1] if shapes else 0
    inner = [(WIDTH, WIDTH, 3, 3)] * (CONVOLUTIONS - 1)
    if shapes != [(WIDTH, channels, 3, 3), *inner, (3, WIDTH, 3, 3)] or channels > WIDTH:
        raise UnsuitableError("the kernels do not support these layers")
    if [i for i, layer in enumerate(found) if layer.bias is None] != list(UPSAMPLED):
        raise UnsuitableError("the kernels do not support the biases of these layers")
    dtype = found[0].weight.dtype
    if dtype != torch.float16:
        raise UnsuitableError(f"the kernels work in float16, not in {dtype}")
    return found


def arranged(convolutions: Sequence[nn.Conv2d]) -> tuple[torch.Tensor, ...]:
    """The weights and biases of all convolutions but the last, then of the last, as in fused.cu."""
    *others, last = convolutions
    lacking = WIDTH - others[0].weight.shape[1]  # channels that only the first one lacks
    first = F.pad(others[0].weight, (0, 0, 0, 0, 0, lacking))
    weights = torch.stack([first, *(layer.weight for layer in others[1:])])
    nothing = torch.zeros_like(others[0].weight[:, 0, 0, 0])
    bias = torch.stack([nothing if layer.bias is None else layer.bias for layer in others])
    assert last.bias is not None
    spare = OUTPUTS - last.weight.shape[0]
    last_weights = F.pad(last.weight, (0, 0, 0, 0, 0, 0, 0, spare))
    return (
        swizzled(weights[:, output_order(weights.device)]),
        bias.float(),
        swizzled(last_weights[None]),
        F.pad(last.bias, (0, spare)).float(),
    )


def output_order(device: torch.device) -> torch.Tensor:
    """The order of outputs in the matrix product.

    A lane gets two neighbours of every eight outputs of the product. In this order these are two
    runs of eight consecutive outputs, each written at once.
    """
    half, four, lane, two = torch.meshgrid(
        *(torch.arange(n, device=device) for n in (2, 4, 4, 2)), indexing="ij"
    )
    return (half * 32 + lane * 8 + four * 2 + two).flatten()


def swizzled(weights: torch.Tensor) -> torch.Tensor:
    """`weights` [n, outputs, channels, 3, 3] as [n, tap, outputs, channels].

    Groups of eight channels are arranged so that in shared memory the same group of eight outputs
    lies in different banks.
    """
    n, outputs, channels = weights.shape[:3]
    eights = channels // 8
    parts = weights.reshape(n, outputs, eights, 8, TAPS).permute(0, 4, 1, 2, 3)
    rows = torch.arange(outputs, device=weights.device)[:, None]
    columns = torch.arange(eights, device=weights.device)[None] ^ rows % 8
    return parts[:, :, rows, columns].reshape(n, TAPS, outputs, channels).contiguous()
