"""Weight files, read so that all shapes are known before any weight is.

Nothing that a file says about itself is trusted until it has been checked. Nothing in it is
executed or mapped into memory (truncating a mapped file kills the process), and only what is asked
for is read.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pickle
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import torch

from ..plain import file_name, in_a_line
from .protocols import DecoderError

HEADER = 1 << 20
"""The most bytes for the list of a file's weights. Decoders need about ten thousand."""

SIP = 1 << 20
"""Bytes that are read at a time."""

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes of decoders' weights, by their names in .safetensors files."""

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}
"""The same, by their names in .pth files."""


class Version(NamedTuple):
    """Distinguishes a file from earlier ones at the same path."""

    modified: int
    """Nanoseconds since 1970; 0 if unknown, in which case reading the file says why."""

    size: int
    """Bytes."""


def version_of(path: str) -> Version:
    """The version of the file that is at `path` now. Never raises."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return Version(0, 0)
    return Version(found.st_mtime_ns, found.st_size)


@dataclass(frozen=True)
class Stored:
    """A weight in an open file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    """Returns the weight, on the CPU. Raises whatever reading a damaged file raises."""


@contextmanager
def opened(path: str, kind: str) -> Iterator[Mapping[str, Stored]]:
    """The weights in the .safetensors or .pth file at `path`, by name.

    Any error inside the block becomes a DecoderError that names the file and, if it could be read,
    says that it is not a `kind`.
    """
    name = file_name(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecoderError("it is not a file")  # opening a pipe would wait for a writer
        with open(path, "rb") as file:
            yield _weights(file)
    except FileNotFoundError as error:
        raise DecoderError(f"{name} no longer exists") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset that no file has
            raise DecoderError(f"{name} is damaged or not a {kind}") from error
        # A problem of the disk, which may be temporary.
        failure = DecoderError(f"{name} cannot be read: {error.strerror or in_a_line(error)}")
        failure.lasting = False
        raise failure from error
    except DecoderError as error:
        raise DecoderError(f"{name} is not a {kind}: {error}") from error
    except MemoryError as error:
        failure = DecoderError(f"{name} cannot be read: not enough memory")
        failure.lasting = False
        raise failure from error
    except Exception as error:  # a damaged file can cause any error
        raise DecoderError(f"{name} is damaged or not a {kind}: {in_a_line(error)}") from error


def _weights(file: IO[bytes]) -> Mapping[str, Stored]:
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _torch_weights(file)
    if len(head) > 8 and head[8:9] == b"{":
        return _safetensors_weights(file)
    if head.startswith(b"version https://git-lfs"):
        raise DecoderError("it is a Git LFS pointer, not the file itself")
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise DecoderError("it is a web page")
    if head.startswith(b"\x80"):
        raise DecoderError("it is a pickle, or from PyTorch before 1.6; save it again")
    raise DecoderError("it is empty" if not head else "its format is unknown")


# --- .safetensors -------------------------------------------------------------------------------


def _safetensors_weights(file: IO[bytes]) -> dict[str, Stored]:
    """The format: 8 bytes with the header's length, the header as JSON, then the data."""
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER:
        raise DecoderError(f"its header has {length:,} bytes")
    header = json.loads(file.read(length))
    start, end = 8 + length, os.fstat(file.fileno()).st_size
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = TYPES.get(entry["dtype"]), _shape(entry["shape"])
        begin, stop = entry["data_offsets"]
        if dtype is None:  # perhaps an encoder's; decoders need none of these
            continue
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= begin <= stop <= end - start or stop - begin != size:
            raise DecoderError("its header does not match its size")
        found[name] = Stored(shape, dtype, _reader(file, start + begin, shape, dtype))
    return found


def _shape(lengths: Any) -> tuple[int, ...]:
    shape = tuple(lengths)
    if len(shape) > 8 or not all(type(length) is int and length >= 0 for length in shape):
        raise DecoderError("it has weights with an invalid shape")
    return shape


def _reader(
    file: IO[bytes], place: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        file.seek(place)
        return _numbers(file, math.prod(shape), dtype).reshape(shape)

    return read


def _numbers(file: IO[bytes], count: int, dtype: torch.dtype) -> torch.Tensor:
    """The next `count` numbers of `file`."""
    if count == 0:
        return torch.empty(0, dtype=dtype)
    data = bytearray(count * dtype.itemsize)
    filled = 0
    while filled < len(data):
        sip = file.read(min(SIP, len(data) - filled))
        if not sip:
            raise DecoderError("it is truncated")
        data[filled : filled + len(sip)] = sip
        filled += len(sip)
    return torch.frombuffer(data, dtype=dtype)


# --- .pth ---------------------------------------------------------------------------------------


class _Sips:
    """A file that limits the size of each read: a zip's directory may be as large as the zip."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size if 0 <= size <= SIP else SIP + 1)
        if len(content) > SIP:
            raise DecoderError("its directory is too large")
        return content


class _Storage(NamedTuple):
    """Numbers in a member of the archive."""

    key: str
    dtype: torch.dtype
    numbers: int


class _View(NamedTuple):
    """A pickled tensor: some of the numbers of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _torch_weights(file: IO[bytes]) -> dict[str, Stored]:
    """The format: a zip with a pickle that lists the weights, and a member for each storage."""
    archive = zipfile.ZipFile(_Sips(file))
    members = {info.filename: info for info in archive.infolist()}
    listing = next((name for name in members if name.endswith("/data.pkl")), None)
    if listing is None:
        raise DecoderError("it is another kind of archive")
    folder = listing.removesuffix("data.pkl")
    if sys.byteorder != "little" or _content(archive, members, f"{folder}byteorder") == b"big":
        raise DecoderError("it has another byte order")
    pickled = _content(archive, members, listing)
    weights = _Listing(io.BytesIO(pickled)).load()
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict):
        raise DecoderError("it has no named weights")
    found = {}
    for name, view in weights.items():
        if isinstance(view, _View):
            member = members.get(f"{folder}data/{view.storage.key}")
            found[str(name)] = _stored(archive, member, view)
    return found


def _content(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    """A small member of the archive; empty if it is missing."""
    if name not in members:
        return b""
    if members[name].compress_type != zipfile.ZIP_STORED:
        raise DecoderError("it is compressed, which weight files never are")
    with archive.open(members[name]) as file:
        content = file.read(HEADER)
        if file.read(1):
            raise DecoderError("its list of weights is too large")
    return content


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, view: _View) -> Stored:
    storage, shape = view.storage, view.shape
    size = storage.dtype.itemsize
    # From its first number to its last.
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, view.strides))  # noqa: B905
    span = span if math.prod(shape) else 0
    if member is None or (view.offset + span) * size > member.file_size:
        raise DecoderError("its list of weights does not match its data")
    if member.compress_type != zipfile.ZIP_STORED:
        raise DecoderError("it is compressed, which weight files never are")

    def read() -> torch.Tensor:
        if span > math.prod(shape):
            raise DecoderError("it has weights that are not contiguous")
        with archive.open(member) as file:
            _skip(file, view.offset * size)
            numbers = _numbers(file, span, storage.dtype)
        return numbers.as_strided(shape, view.strides).contiguous()

    return Stored(shape, storage.dtype, read)


def _skip(file: IO[bytes], size: int) -> None:
    while size > 0 and (sip := file.read(min(SIP, size))):
        size -= len(sip)


def _rebuilt(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> _View:
    """Stands for torch's function that makes a tensor."""
    if not (isinstance(storage, _Storage) and isinstance(shape, tuple)):
        raise DecoderError("it has weights of unknown type")
    shape, strides = _shape(shape), _shape(strides)
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
        raise DecoderError("it has weights with an invalid shape")
    return _View(storage, offset, shape, strides)


def _parameter(view: object, *rest: object) -> object:
    """Stands for torch's function that makes a parameter of a tensor."""
    return view


def _no_items() -> dict[object, object]:
    """Stands for a dictionary's class, which could be made to copy another one over and over."""
    return {}


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _no_items,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}
"""Everything that a list of weights may refer to. Nothing else is looked up, and nothing is run."""

OPERATIONS = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.STOP,
    pickle.MARK,
    pickle.POP,
    pickle.POP_MARK,
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.LONG1,
    pickle.BINFLOAT,
    pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE,
    pickle.EMPTY_TUPLE,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.EMPTY_LIST,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.EMPTY_DICT,
    pickle.SETITEM,
    pickle.SETITEMS,
    pickle.BINGET,
    pickle.LONG_BINGET,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
    pickle.MEMOIZE,
    pickle.GLOBAL,
    pickle.STACK_GLOBAL,
    pickle.REDUCE,
    pickle.BUILD,
    pickle.BINPERSID,
)
"""The operations that a pickle of weights needs. Others allocate as much memory as a number in the
file says; so does Python's fast unpickler even for some of these."""


_PythonUnpickler: Any = pickle._Unpickler  # its type stubs are incomplete


class _Listing(_PythonUnpickler):
    """Reads the names and places of a .pth file's weights, and nothing else."""

    dispatch = {code[0]: _PythonUnpickler.dispatch[code[0]] for code in OPERATIONS}  # noqa: RUF012

    def load_build(self) -> None:
        """Drop what torch stores besides the weights: BUILD could set attributes on anything."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise DecoderError(f"it refers to {module}.{name}, so it contains more than weights")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int:
            raise DecoderError("it has weights of unknown type")
        return _Storage(str(key), dtype, count)
