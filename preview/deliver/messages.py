"""The websocket messages about frames, sounds and runs."""

from __future__ import annotations

import json
import struct
from typing import Any

from ..records import Encoded, Run, Sound
from .label import labelled

LEGACY_TYPES = {"image/jpeg": 1, "image/png": 2}


def metadata_message(frame: Encoded, told: dict[str, Any]) -> bytes:
    """ComfyUI's binary event 4: length, JSON with `told` as SideStream's own part, picture."""
    header = frame.label.run.context.wire() | {"image_type": frame.mime, "sidestream": told}
    encoded = json.dumps(header).encode()
    return b"".join((struct.pack(">I", len(encoded)), encoded, _picture(frame, told)))


def legacy_message(frame: Encoded, told: dict[str, Any]) -> bytes:
    """ComfyUI's binary event 1: the picture's type, then the picture."""
    return struct.pack(">I", LEGACY_TYPES[frame.mime]) + _picture(frame, told)


def _picture(frame: Encoded, told: dict[str, Any]) -> bytes:
    """The picture's file, labelled: ComfyUI's page keeps the picture and drops the rest."""
    context = frame.label.run.context
    return labelled(frame, {"prompt_id": context.prompt_id, "node_id": context.node_id} | told)


def told_of(frame: Encoded, now: float) -> dict[str, Any]:
    """SideStream's own object about a frame, at the moment of sending."""
    label, info = frame.label, frame.info
    run = label.run
    told: dict[str, Any] = {}
    if info.grid is not None:
        columns, rows = info.grid
        told["grid"] = {"columns": columns, "rows": rows, "images": list(label.images)}
    if info.animation is not None:
        frames, duration = info.animation
        told["animation"] = {
            "frames": frames,
            "fps": round(frames * 1000 / max(1, duration), 3),
            "duration_ms": duration,
        }
    if info.is_quicker and run.slow is not None:
        told["slow"] = run.slow
    if run.context.seed is not None:
        told["seed"] = run.context.seed
    if info.not_finite:
        told["not_finite"] = info.not_finite
    if run.began_at is not None:
        told["elapsed_ms"] = round((label.captured_at - run.began_at) * 1000, 1)
    if info.sigma is not None:
        told["sigma"] = info.sigma
    if info.change is not None:
        told["change"] = info.change._asdict()
    return told | {
        "run": run.id,
        "stage": run.stage,
        "seq": label.seq,
        "step": label.step,
        "total_steps": label.total_steps,
        "width": info.size[0],
        "height": info.size[1],
        "decoder": info.decoder,
        "captured_to_sent_ms": round((now - label.captured_at) * 1000, 1),
        "ready_to_sent_ms": round((now - info.ready_at) * 1000, 1),
        "decode_ms": round(info.decode_ms, 2),
        "dropped": run.outcomes_of_node.dropped,
        "outcomes": dict(run.outcomes_of_node),
    }


def sound_message(sound: Sound, secret: str) -> dict[str, Any]:
    """A run has a new sound, which can be fetched with `secret`."""
    label = sound.label
    return _of(label.run) | {
        "id": secret,
        "step": label.step,
        "total_steps": label.total_steps,
        "seconds": round(sound.seconds, 3),
        "of_seconds": round(sound.of_seconds, 3),
        "rate": sound.rate,
        "channels": sound.channels,
        "bytes": len(sound.data),
        "decode_ms": round(sound.decode_ms, 2),
    }


def no_sound_message(run: Run, why: str) -> dict[str, Any]:
    """A run has no sound, although somebody asked for it."""
    return _of(run) | {"why": why}


def _of(run: Run) -> dict[str, Any]:
    return run.context.wire() | {"run": run.id, "stage": run.stage}


def run_message(run: Run, state: str) -> dict[str, Any]:
    """A run has started, is sampling or has ended, with its counters."""
    told = _of(run) | {
        "state": state,
        "total_steps": run.total_steps,
        "sent": run.outcomes_of_node.sent,
        "dropped": run.outcomes_of_node.dropped,
        "outcomes": dict(run.outcomes_of_node),
        "settings": run.settings.as_dict(),
        "live": run.live,
        "paused": run.paused,
        "can_finish": run.can_finish,
    }
    if run.finished_early is not None:
        told["finished_early"] = run.finished_early
    if run.missing_decoder is not None:
        told["missing_decoder"] = run.missing_decoder
    return told if run.slow is None else told | {"slow": run.slow}
