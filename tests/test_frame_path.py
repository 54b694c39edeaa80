"""A frame's path, as docs/architecture.md lists it, is what the calls of a real run are."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sidestream.tests.helpers import on_the_cpu_only
from sidestream.tests.stage import all_told, with_settings
from sidestream.tests.test_documents import ARCHITECTURE, REPO, stages, text_of

STEPS = 3


def first_line(file: str, name: str) -> int:
    """Where the code of a function, or of a method `C.m`, begins."""
    body: Any = ast.parse(text_of(REPO / file))
    for part in name.split("."):
        body = next(node for node in body.body if getattr(node, "name", "") == part)
    return min(node.lineno for node in [body, *body.decorator_list])


@contextmanager
def traced(stage: Any, path: list[tuple[str, str]]) -> Iterator[list[str]]:
    """The calls of the functions in `path`, on all threads that begin now and on the server's."""
    names = {(str(REPO / file), first_line(file, name)): name for name, file in path}
    calls: list[str] = []
    seen: list[FrameType] = []  # a coroutine that goes on is no other call

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not any(frame is each for each in seen):
            name = names.get((frame.f_code.co_filename, frame.f_code.co_firstlineno))
            trial = frame.f_back is not None and frame.f_back.f_code.co_name == "check"
            if name is not None and not trial:  # of the backend, before the first frame
                seen.append(frame)
                calls.append(name)

    threading.setprofile(note)
    stage.loop.call_soon_threadsafe(sys.setprofile, note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        stage.loop.call_soon_threadsafe(sys.setprofile, None)


def test_a_frames_path_is_what_a_real_run_calls(stage, make_pack, client, told):
    on_the_cpu_only("another class stages on a GPU")
    path = stages(text_of(ARCHITECTURE))
    assert 5 <= len(path) <= 10
    model = with_settings(stage.demo_model())
    with traced(stage, path) as calls:
        pack = make_pack()  # its threads begin within
        with stage.node():
            stage.sample(model, steps=STEPS)
        assert all_told(pack)
    assert client.steps == [1, 2, 3]
    assert calls == [name for name, _ in path] * STEPS
