"""The family of a decoder file whose name does not tell."""

from __future__ import annotations

import functools

from .. import decoder_files
from . import taehv, taesd
from .files import Version, opened, version_of
from .protocols import DecoderError


def family_of(path: str) -> str:
    """The family whose layers the file at `path` has at present. Raises DecoderError."""
    return _family_of(path, version_of(path))


@functools.lru_cache(maxsize=16)
def _family_of(path: str, version: Version) -> str:
    with opened(path, "small decoder") as stored:
        if "7.conv.weight" in taehv.decoder_weights(stored):
            return decoder_files.VIDEO
        if "3.conv.0.weight" in taesd.decoder_weights(stored):
            return decoder_files.IMAGE
        raise DecoderError("its layers are of no kind that is known")
