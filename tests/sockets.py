"""A websocket client down to the bytes, for what a well-behaved client never does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import urllib.parse

FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
TEXT = 0x81


class RawSocket(contextlib.ExitStack):
    """A client of a websocket that takes from the network only what it is told to."""

    def __init__(
        self,
        url: str,
        client_id: str = "",
        *,
        features: object = FEATURES,
        deflate: bool = False,
        watch: str = "",
    ) -> None:
        """Connect and announce `features`. Reads nothing but the handshake.

        `deflate` offers permessage-deflate, as browsers do. With the key `watch` it is a client of
        the watch page's websocket instead.
        """
        super().__init__()
        address = urllib.parse.urlparse(url)
        assert address.hostname is not None
        self._socket = self.enter_context(socket.socket())
        # A small window, so that few frames fill what lies between the server and here.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(10)
        self._socket.connect((address.hostname, address.port))
        key = base64.b64encode(os.urandom(16)).decode()
        path = f"/ws?{urllib.parse.urlencode({'clientId': client_id})}"
        if watch:
            path = "/sidestream/watch"
        offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"{offer}\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.read(1)
        assert answer.startswith(b"HTTP/1.1 101")
        assert (b"permessage-deflate" in answer) == deflate
        self._send_text(watch or json.dumps(features))

    def _send_text(self, text: str) -> None:
        data, mask = text.encode(), os.urandom(4)
        assert len(data) < 126
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(struct.pack("BB", TEXT, 0x80 | len(data)) + mask + masked)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of what the server sent."""
        data = self._socket.recv(size)
        assert data, "the server has closed the connection"
        return data

    def read_all(self) -> bytes:
        """What the server has sent so far, and is here."""
        data = b""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                data += self.read(65536)
        return data

    def reset(self) -> None:
        """Break the connection off, with whatever is still on its way."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
