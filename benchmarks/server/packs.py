"""Other packs' previews compared with ComfyUI's and SideStream's, each in a separate ComfyUI.

Each pack is set up according to its documentation, if possible in two ways: to preview every step,
and with its defaults. All decode the same TAESD file, and are limited to 512 px.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from sidestream.tools.comfy_client import Run
from sidestream.tools.places import PACK_NAME, REPO

from . import frames, plan, prompts, ratios
from .files import DECODERS, decoder_file
from .looks import megabytes, references, watched_memory
from .session import Neighbour, Session, Setup

Result = dict[str, Any]

SIDE = 512
"""Pixels, the same as ComfyUI's default."""
ARGUMENTS = ("--preview-method", "taesd")
"""For each ComfyUI."""
OFF = {"preview_method": "none", "sidestream": {"method": "off"}}
"""The extra data of a prompt without previews."""
PATIENCE = 120.0
"""Seconds for a prompt in addition to those for its blocks; a pack that hangs is given up."""
COMMITS = "commits.txt"
"""A file in the folder of packs with lines `PACK COMMIT DATE`, for packs without git."""

JPEG = b"\xff\xd8"
SIGNATURES = (JPEG, b"\x89PNG", b"RIFF")
"""The first bytes of a JPEG, a PNG and a WebP, in which those of a JPEG may occur by chance."""

BLEH = "previews:\n  max_size: 512\n  throttle_secs: 0\n"
NOT_THERE = "it is not in the folder of packs"


@dataclass(frozen=True)
class Variant:
    """One way to use a pack."""

    name: str
    extra: dict[str, Any] = field(default_factory=dict)
    """The prompt's extra data."""
    node: dict[str, Any] | None = None
    """A node between the MODEL and the sampler."""


@dataclass(frozen=True)
class Entrant:
    """A pack in a separate ComfyUI."""

    name: str
    folder: str | None
    """Its name among custom nodes; None for ComfyUI without packs."""
    proof: str
    """A node class that exists if the pack has loaded."""
    variants: tuple[Variant, ...]
    files: dict[str, str] = field(default_factory=dict)
    """Files that its users put into its folder."""


def vhs(rate: int) -> dict[str, Any]:
    """What VideoHelperSuite's page adds to a prompt if its previews are on; 0 is its own rate."""
    extra = {"VHS_latentpreview": True, "VHS_latentpreviewrate": rate}
    return {"extra_pnginfo": {"workflow": {"extra": extra}}}


def kjnodes(**given: Any) -> dict[str, Any]:
    """KJNodes' node, with its defaults except for `given`."""
    defaults = {
        "max_resolution": 1024,
        "jpeg_quality": 80,
        "suppress_default_preview": True,
        "preview_frames": 1,
        "preview_fps": 12,
    }
    return prompts.node("ModelPreviewOverrideKJ", **defaults | given)


def entrants(decoder: str) -> tuple[Entrant, ...]:
    """All entrants; `decoder` is the name of the decoder's file."""
    own_decoder = kjnodes(max_resolution=SIDE, tiny_vae=decoder)
    sidestream = Variant("every step", {"sidestream": plan.EVERY_STEP})
    bleh = ("bleh", "ComfyUI-bleh", "BlehEnsurePreviewer")
    return (
        Entrant("ComfyUI", None, "KSampler", (Variant("every step"),)),
        Entrant("SideStream", PACK_NAME, "SideStreamPreview", (sidestream, Variant("defaults"))),
        Entrant(
            "KJNodes",
            "ComfyUI-KJNodes",
            "ModelPreviewOverrideKJ",
            (Variant("its own decoder", node=own_decoder), Variant("defaults", node=kjnodes())),
        ),
        Entrant(*bleh, (Variant("every step"),), {"blehconfig.yaml": BLEH}),
        Entrant(*bleh, (Variant("defaults"),)),
        Entrant(
            "VideoHelperSuite",
            "ComfyUI-VideoHelperSuite",
            "VHS_VideoCombine",
            (Variant("60 pictures a second", vhs(60)), Variant("defaults", vhs(0))),
        ),
    )


def packs(asked: Setup) -> Result:
    """Measure every pack; failures are part of the result, which is saved after each pack."""
    asked = replace(asked, arguments=(*ARGUMENTS, *asked.arguments), patience=PATIENCE)
    rows: list[Result] = []
    log: dict[str, Any] = {}
    right: dict[str, Any] = {}
    for entrant in entrants(decoder_file(asked.models, DECODERS[0]).name):
        about = {"pack": entrant.name, **version(asked, entrant)}
        left = [(unet, variant.name) for unet in asked.unets for variant in entrant.variants]
        print(f"{entrant.name}, {', '.join(name for _, name in left)} ...", flush=True)
        try:
            for row in measured(asked, entrant, right, log):
                rows.append(about | row)
                left.pop(0)
        except Exception as error:  # the others are still worth knowing
            why = f"{type(error).__name__}: {error}"[:2000]
            rows += [about | {"unet": u, "previews": name, "failed": why} for u, name in left]
        asked.save({"rows": rows, "log": log})
    return {"rows": rows, "log": log}


def measured(
    asked: Setup, entrant: Entrant, right: dict[str, Any], log: dict[str, Any]
) -> Iterator[Result]:
    """Yields the measurements of each variant. Fills `right` with the steps' correct pictures."""
    own = entrant.folder == PACK_NAME
    with Session(asked, pack=own, others=others(asked, entrant)) as session:
        if not session.has_node(entrant.proof):
            raise RuntimeError("ComfyUI did not load it")
        for unet in asked.unets:
            sampled(session, unet)  # warm-up
            if unet not in right:
                right[unet] = references(session, unet)["taesd"]
            off = sampled(session, unet)
            for variant in entrant.variants:
                on = sampled(session, unet, variant)
                yield {
                    "unet": unet,
                    "previews": variant.name,
                    **in_blocks(session, unet, variant),
                    **pictures(on["run"], right[unet][asked.steps]),
                    "latent_same": on["latent"] == off["latent"],
                    "reserved_above_none_mb": above(on["memory"], off["memory"]),
                }
        log[entrant.name] = log.get(entrant.name, []) + session.log()


def others(asked: Setup, entrant: Entrant) -> tuple[Neighbour, ...]:
    """The pack to install beside SideStream. Raises FileNotFoundError if it is missing."""
    if entrant.folder in (None, PACK_NAME):
        return ()
    folder = (asked.packs or Path()) / str(entrant.folder)
    if not folder.is_dir():
        raise FileNotFoundError(NOT_THERE)
    return (Neighbour(folder, entrant.files),)


def sampled(session: Session, unet: str, variant: Variant | None = None) -> Result:
    """A run of the KSampler node, without previews if no variant is given."""
    asked = session.asked
    prompt = prompts.sampled(unet, asked.size(unet), session.nonce(), asked.steps)
    extra = OFF
    if variant is not None:
        prompt, extra = prompts.through(prompt, variant.node), variant.extra
    session.fresh_memory()
    with watched_memory(session) as memory:
        run = session.run(prompt, extra=extra)
    latent = session.output(run, prompts.END, "sha256")
    return {"run": run, "memory": memory, "latent": latent}


def above(on: list[dict[str, int]], off: list[dict[str, int]]) -> float | None:
    """The peak of torch's memory on the first GPU above that of a run without previews, in MB."""
    if not on or not off:
        return None
    return megabytes(on[0]["most_reserved"] - off[0]["most_reserved"])


def in_blocks(session: Session, unet: str, variant: Variant) -> Result:
    """One sampling in which every second block of steps has the variant's previews."""
    asked = session.asked
    told: dict[str, Any] = {
        "steps_per_block": plan.STEPS_PER_BLOCK,
        "providers": {plan.NONE: plan.PROVIDERS[plan.NONE], variant.name: plan.INSTALLED},
        "defaults": {},
        "order": plan.order((variant.name,), -(-asked.blocks // 2) + 1, asked.seed),
        "seconds": asked.seconds,
    }
    prompt = prompts.measured(
        "SideStreamBenchBlocks", unet, asked.size(unet), session.nonce(), plan=json.dumps(told)
    )
    run = session.run(prompts.through(prompt, variant.node), extra=variant.extra)
    result = session.result(run, prompts.SAMPLER)
    ratios.count_frames(result, [(sent.step, sent.received_at) for sent in received(run)])
    none, row = ratios.rows(result, (variant.name,))
    del row["provider"]
    return {**row, "ms_per_step_without": none.get("ms_per_step")}


@dataclass(frozen=True)
class Sent:
    """A picture as it arrived."""

    step: int | None
    """None if the pack does not say."""
    image: bytes
    received_at: float


def received(run: Run) -> list[Sent]:
    """The pictures of a run, in whatever way a pack sends them."""
    found = [
        Sent(frame.sidestream.get("step"), without_header(frame.image), frame.received_at)
        for frame in run.frames
    ]
    for event in run.events_of("kj_preview_override"):
        if event.data.get("image") and event.data["step"]:  # 0 is the noise, before the first step
            image = base64.b64decode(event.data["image"])
            found.append(Sent(event.data["step"], image, event.received_at))
    return found


def without_header(image: bytes) -> bytes:
    """A picture as received; VideoHelperSuite puts its own header before the JPEG."""
    if image.startswith(SIGNATURES):
        return image
    return image[max(0, image.find(JPEG)) :]


def pictures(run: Run, last: Any) -> Result:
    """The pictures in a run of the KSampler node, the last of which should be `last`."""
    found = [sent.image for sent in received(run)]
    sizes = sorted(len(image) for image in found)
    if not found:
        return {"arrived": 0, "different": 0}
    return {
        "arrived": len(found),
        "different": len({hashlib.sha256(image).hexdigest() for image in found}),
        "size": Image.open(io.BytesIO(found[-1])).size,
        "median_kb": round(sizes[len(sizes) // 2] / 1024, 1),
        "last_psnr": round(frames.psnr(found[-1], last), 1),
    }


def version(asked: Setup, entrant: Entrant) -> Result:
    """An entrant's version according to its files, and its commit according to git or `COMMITS`."""
    if entrant.folder is None:
        return {"version": asked.host().version, "commit": None, "date": None}
    packs = asked.packs or Path()
    folder = REPO if entrant.folder == PACK_NAME else packs / entrant.folder
    stated = re.search(r'^version = "(.+)"', text(folder / "pyproject.toml"), re.MULTILINE)
    told = re.search(rf"^{entrant.folder} (\S+) (\S+)$", text(packs / COMMITS), re.MULTILINE)
    commit, date = told.groups() if told else (None, None)
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            commit, date = done.stdout.split()
    return {"version": stated and stated[1], "commit": commit, "date": date}


def text(path: Path) -> str:
    """A file's text; empty if it does not exist."""
    return path.read_text("utf-8") if path.is_file() else ""
