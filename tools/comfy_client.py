"""A synchronous client of ComfyUI's HTTP and websocket interface.

The socket lives on a separate thread with an event loop, which receives continuously and timestamps
every message on arrival; the methods here read from the queue that it fills.
"""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import aiohttp

from .local import opened

Json: TypeAlias = Any
T = TypeVar("T")

LEGACY_PREVIEW = 1
PREVIEW_WITH_METADATA = 4
LEGACY_TYPES = {1: "image/jpeg", 2: "image/png"}


class RequestRefused(Exception):
    """ComfyUI responded with an error; `body` is its parsed JSON, or its text."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class Unfinished(Exception):
    """A prompt did not end within the given time."""


@dataclass(frozen=True)
class Event:
    """A JSON message from the server."""

    type: str
    data: dict[str, Any]
    received_at: float
    """When it arrived, by `time.monotonic`."""


@dataclass(frozen=True)
class Frame:
    """A preview picture."""

    image: bytes
    mime: str
    metadata: dict[str, Any]
    """The metadata of event 4; empty for event 1, which carries only the picture."""
    received_at: float

    @property
    def sidestream(self) -> dict[str, Any]:
        """SideStream's own part of the metadata; empty if the frame is not SideStream's."""
        own: dict[str, Any] = self.metadata.get("sidestream", {})
        return own


@dataclass
class Run:
    """Everything that arrived for one prompt."""

    prompt_id: str
    frames: list[Frame] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """`success`, `error`, `interrupted`, or `unknown` if the server did not say."""
        said = {event.type for event in self.events}
        outcomes = ("success", "error", "interrupted")
        return next((name for name in outcomes if f"execution_{name}" in said), "unknown")

    def events_of(self, kind: str) -> list[Event]:
        """The events of one type, in order."""
        return [event for event in self.events if event.type == kind]


class ComfyClient:
    """One websocket client of a ComfyUI server."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str | None = None,
        announce_features: bool = True,
        compress: bool = False,
        timeout: float = 30.0,
    ) -> None:
        """Connect; returns once the server has registered the client and its features.

        `compress` offers permessage-deflate, as browsers do.
        """
        self.url = url.rstrip("/")
        self.client_id = client_id or uuid.uuid4().hex
        self.timeout = timeout
        self._compress = 15 if compress else 0  # the window's size, as a power of two
        self._messages: queue.Queue[Event | Frame] = queue.Queue()
        self._ahead: deque[Event | Frame] = deque()
        """What arrived during the wait for the last frames of an earlier prompt."""
        self._open_runs: dict[str, set[Any]] = {}
        """By prompt whose runs were announced, those that have started but not ended."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._session, self._socket = self._await(self._connect(announce_features))
        except BaseException:
            self._end_loop()
            raise
        # While cleared, nothing is read from the socket, as if this client's network had stalled.
        self._reads = asyncio.Event()
        self._reads.set()
        self._receiver = asyncio.run_coroutine_threadsafe(self._receive(), self._loop)

    def close(self) -> None:
        """Disconnect."""
        self._receiver.cancel()
        self._await(self._session.close())
        self._end_loop()

    def pause_reading(self) -> None:
        """Stop reading from the socket, so that the server's messages back up."""
        self._loop.call_soon_threadsafe(self._reads.clear)

    def resume_reading(self) -> None:
        """Read from the socket again."""
        self._loop.call_soon_threadsafe(self._reads.set)

    # Prompts

    def queue(
        self,
        prompt: Mapping[str, Any],
        extra_data: Mapping[str, Any] | None = None,
        *,
        anonymous: bool = False,
    ) -> str:
        """Queue a prompt, without this client's id if `anonymous`; returns the prompt's id.

        Raises RequestRefused, with the result of the validation, if ComfyUI refuses the prompt.
        """
        body: dict[str, Any] = {"prompt": prompt}
        if not anonymous:
            body["client_id"] = self.client_id
        if extra_data is not None:
            body["extra_data"] = dict(extra_data)
        return str(self.post("/prompt", body)["prompt_id"])

    def messages(self, prompt_id: str, timeout: float = 60.0) -> Iterator[Event | Frame]:
        """Yield whatever arrives until the prompt has ended; raise Unfinished if it does not.

        The last previews may arrive after that; it waits for the end of announced runs, also of
        those whose announcement came in an earlier call for the same prompt.
        """
        deadline = time.monotonic() + timeout
        ended, known, of_others, silent = False, False, list[Event | Frame](), 0
        asked = False
        while time.monotonic() < deadline:
            open_runs = self._open_runs.get(prompt_id)
            announced = open_runs is not None
            if ended and announced and not open_runs:
                break
            try:
                message = self._next(min(0.3 if asked and not announced else 1.0, timeout))
            except queue.Empty:
                if asked and not announced:
                    break  # nothing was sampled
                silent += 1
                # A prompt that was queued without a client id has no last event. A busy server may
                # also be silent for a while, before and after it has sent that; all the more while
                # it makes the last pictures or sounds of a run.
                if silent > (15 if open_runs else 2) and (ended or known):
                    ended = True
                    break
                if not known and silent > 2 and self.history(prompt_id):
                    known, silent = True, 0
                continue
            silent = 0
            if ended and _prompt_of(message) not in (None, prompt_id):
                of_others.append(message)
                continue
            yield message
            _note_run(message, self._open_runs)
            ended = ended or _ends(message, prompt_id)
            if ended and prompt_id not in self._open_runs and not asked:
                # A prompt of a few milliseconds may end before its run is announced. By the
                # server's next answer it is.
                asked = True
                self.history(prompt_id)
        self._ahead.extendleft(reversed(of_others))
        if not ended:
            raise Unfinished(f"prompt {prompt_id} did not end within {timeout:.0f} s")

    def run(
        self,
        prompt: Mapping[str, Any],
        extra_data: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
    ) -> Run:
        """Queue a prompt and collect what arrives until it ends."""
        return self.collect(self.queue(prompt, extra_data), timeout)

    def collect(self, prompt_id: str, timeout: float = 60.0) -> Run:
        """Collect what arrives until a queued prompt ends."""
        return _sort(prompt_id, self.messages(prompt_id, timeout))

    def listen(self, seconds: float) -> Run:
        """Collect what arrives within that time, whichever prompt it belongs to."""
        return _sort("", self._arrivals(seconds))

    def interrupt(self) -> None:
        """Interrupt the running prompt."""
        self.post("/interrupt", {})

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What ComfyUI's history has about an ended prompt; empty before its end."""
        entry: dict[str, Any] = self.get(f"/history/{prompt_id}").get(prompt_id, {})
        return entry

    def saved_latent(self, prompt_id: str, node_id: str) -> bytes:
        """The bytes of the latent that a SaveLatent node wrote, without the file's header.

        The header contains the prompt, so it differs between prompts that compute the same latent.
        """
        saved = self.history(prompt_id)["outputs"][node_id]["latents"][0]
        file = self.get_bytes(f"/view?{urllib.parse.urlencode(saved)}")
        (header_length,) = struct.unpack_from("<Q", file)
        header = json.loads(file[8 : 8 + header_length])
        start, end = header["latent_tensor"]["data_offsets"]
        return file[8 + header_length + start : 8 + header_length + end]

    # HTTP

    def get(self, path: str) -> Json:
        """GET a path; returns the parsed JSON."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """GET a path; returns the body."""
        return self._request(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Json) -> Json:
        """POST JSON; returns the response's JSON, or None for an empty response."""
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = self._request(urllib.request.Request(self.url + path, data, headers))
        return json.loads(answer) if answer else None

    def _request(self, request: urllib.request.Request) -> bytes:
        try:
            with opened(request, timeout=self.timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                body = json.loads(text)
            except ValueError:
                body = text
            raise RequestRefused(error.code, body) from None

    # The socket

    async def _connect(
        self, announce_features: bool
    ) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
        session = aiohttp.ClientSession()
        try:
            query = urllib.parse.urlencode({"clientId": self.client_id})
            address = f"{self.url}/ws?{query}"
            socket = await session.ws_connect(address, max_msg_size=0, compress=self._compress)
            awaited = "status"
            if announce_features:
                flags = {"supports_preview_metadata": True}
                await socket.send_json({"type": "feature_flags", "data": flags})
                awaited = "feature_flags"
            while not _is_of_type(await socket.receive(), awaited):
                pass  # the pictures of a run that goes on may come first
        except BaseException:
            await session.close()
            raise
        return session, socket

    async def _receive(self) -> None:
        while True:
            await self._reads.wait()
            raw = await self._socket.receive()
            now = time.monotonic()
            if raw.type is aiohttp.WSMsgType.TEXT:
                message = json.loads(raw.data)
                self._messages.put(Event(message["type"], message.get("data") or {}, now))
            elif raw.type is aiohttp.WSMsgType.BINARY:
                frame = parse_frame(raw.data, now)
                if frame is not None:
                    self._messages.put(frame)
            else:
                return

    def _arrivals(self, seconds: float) -> Iterator[Event | Frame]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                yield self._next(left)
            except queue.Empty:
                return

    def _next(self, seconds: float) -> Event | Frame:
        """The next message. Raises queue.Empty if none arrives within that time."""
        return self._ahead.popleft() if self._ahead else self._messages.get(timeout=seconds)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self.timeout)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self.timeout)
        self._loop.close()

    def __enter__(self) -> ComfyClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def parse_frame(message: bytes, received_at: float) -> Frame | None:
    """Parse a binary message; None if it is not a preview."""
    kind, head = struct.unpack_from(">II", message)
    if kind == LEGACY_PREVIEW:
        return Frame(message[8:], LEGACY_TYPES.get(head, "?"), {}, received_at)
    if kind == PREVIEW_WITH_METADATA:
        metadata = json.loads(message[8 : 8 + head])
        return Frame(message[8 + head :], metadata.get("image_type", "?"), metadata, received_at)
    return None


def _ends(message: Event | Frame, prompt_id: str) -> bool:
    return (
        isinstance(message, Event)
        and message.type == "executing"
        and message.data.get("node") is None
        and message.data.get("prompt_id") == prompt_id
    )


def _prompt_of(message: Event | Frame) -> str | None:
    """The prompt to which a message belongs, if it says so."""
    told = message.metadata if isinstance(message, Frame) else message.data
    return told.get("prompt_id")


def _note_run(message: Event | Frame, open_runs: dict[str, set[Any]]) -> None:
    """Update `open_runs`: by prompt, the stages of SideStream's runs that have not ended.

    A sampler that tells that it has no run is an announcement, too.
    """
    if not isinstance(message, Event) or message.type != "sidestream.run":
        return
    of_prompt = open_runs.setdefault(str(message.data.get("prompt_id")), set())
    run = (message.data.get("run"), message.data.get("stage"))
    if run[0] is not None:
        (of_prompt.discard if message.data["state"] == "end" else of_prompt.add)(run)


def _is_of_type(message: aiohttp.WSMessage, kind: str) -> bool:
    """Whether a websocket's message is an event of that kind. Raises ConnectionError at its end."""
    if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
        raise ConnectionError("ComfyUI closed the connection")
    return message.type is aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == kind


def _sort(prompt_id: str, messages: Iterator[Event | Frame]) -> Run:
    run = Run(prompt_id)
    for message in messages:
        if isinstance(message, Frame):
            run.frames.append(message)
        else:
            run.events.append(message)
    return run
