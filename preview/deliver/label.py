"""A frame's label inside its picture: the comment that tools show for a saved file.

It is a COM segment in JPEG, a tEXt chunk in PNG, an XMP chunk in WebP. The encoded pixels are not
changed. The label is ASCII, so that only XML has to escape it.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any
from xml.sax.saxutils import escape

from ..records import Encoded
from .webp import with_xmp

LONGEST = 0xFFFF - 2  # bytes of a JPEG comment

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/">'
    '<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt>'
    "</exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def labelled(frame: Encoded, label: dict[str, Any]) -> bytes:
    """The file of `frame` with `{"sidestream": label}` as its comment.

    A label longer than `LONGEST` is left out.
    """
    comment = json.dumps({"sidestream": label}, separators=(",", ":"))
    if len(comment) > LONGEST:
        return frame.data
    if frame.mime == "image/webp":
        return with_xmp(frame.data, frame.info.size, XMP.format(escape(comment)).encode())
    if frame.mime == "image/png":
        return _png(frame.data, b"tEXtComment\0" + comment.encode())
    return _jpeg(frame.data, comment.encode())


def _jpeg(file: bytes, comment: bytes) -> bytes:
    at = 2
    if file[2:4] == b"\xff\xe0":  # the JFIF header, which must come first
        at += 2 + int.from_bytes(file[4:6], "big")
    size = struct.pack(">H", len(comment) + 2)
    return b"".join((file[:at], b"\xff\xfe", size, comment, file[at:]))


def _png(file: bytes, chunk: bytes) -> bytes:
    at = 33  # after the signature and IHDR
    size = struct.pack(">I", len(chunk) - 4)
    check = struct.pack(">I", zlib.crc32(chunk))
    return b"".join((file[:at], size, chunk, check, file[at:]))
