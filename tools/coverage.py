"""Which latent formats have previews: `python dev.py coverage [TREE ...]` writes docs/coverage.md.

For each ComfyUI tree a separate process asks ComfyUI's `get_previewer` and SideStream's
`sources.find` about every class in `comfy.latent_formats`, with every preview method, with and
without a decoder file. Packages that a tree needs beyond those of the environment can be added with
PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from sidestream.preview.decoder_files import Kind

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "coverage.md"

METHODS = ("default", "auto", "latent2rgb", "taesd")
"""ComfyUI's preview methods; "default" means that none was chosen."""

NOTHING = "–"
OWN_PREVIEWERS = {
    "NoneType": NOTHING,
    "Latent2RGBPreviewer": "Latent2RGB",
    "TAESDPreviewerImpl": "TAESD",
    "TAEHVPreviewerImpl": "TAEHV",
}
OUR_DECODERS = {
    "latent2rgb": "Latent2RGB",
    "spectrogram": "spectrogram",
    "taesd": "TAESD",
    "taehv": "TAEHV",
}
RANKS = {NOTHING: 0, "spectrogram": 1, "Latent2RGB": 1, "TAESD": 2, "TAEHV": 2}

NO_FACTORS = "ComfyUI has neither factors nor a decoder for it"
WHY_NOTHING = {
    "HunyuanImage21Refiner": NO_FACTORS,
    "SeedVR2": NO_FACTORS,
    "TripoSplat": "8192 tokens of a scene without spatial order, which ComfyUI's node"
    " *TripoSplat Sampling Preview* can draw",
    "Trellis2": "features of a 3D shape: of 16 × 16 × 16 cells, then of a list of points",
    "Trellis2SLAT": "like Trellis2",
    "Trellis2ShapeSLAT": "like Trellis2",
    "Trellis2TexSLAT": "like Trellis2",
}


class Shown(NamedTuple):
    """What is shown of a format."""

    without: str
    """Without the decoder file."""
    best: str
    """With the decoder file; the same if none exists."""

    def __str__(self) -> str:
        return self.best if self.best == self.without else f"{self.best}, else {self.without}"


@dataclass(frozen=True)
class Row:
    """One latent format."""

    format: str
    channels: int
    dimensions: int
    decoder: str
    """How the names of its decoder files begin."""
    comfyui: dict[str, Shown]
    """By method, the still preview."""
    sidestream: dict[str, Shown]
    animated: Shown
    """SideStream's animation; ComfyUI's previewers give one picture."""

    def lacking(self) -> list[str]:
        """The methods for which ComfyUI shows more."""
        return [
            method
            for method in METHODS
            for ours, own in zip(self.sidestream[method], self.comfyui[method], strict=True)
            if RANKS[ours] < RANKS[own]
        ]

    def cells(self) -> list[str]:
        """The cells of its row in the page's table."""
        own = [str(self.comfyui[method]) for method in ("default", "auto", "taesd")]
        ours = [str(self.sidestream["default"]), str(self.animated)]
        file = " or ".join(f"`{name}`" for name in self.decoder.split()) or NOTHING
        numbers = [str(self.channels), str(self.dimensions)]
        return [self.format, *numbers, file, *own, NOTHING, *ours]


HEADINGS = (
    *("Latent format", "Channels", "Dimensions", "Decoder file"),
    *("ComfyUI: default", "auto", "taesd", "animated"),
    *("SideStream: default", "animated"),
)

INTRODUCTION = """\
# Coverage

Every latent format of ComfyUI, and how ComfyUI's own previewers and SideStream show it.
`python dev.py coverage` queries both and writes this page.

- *TAESD, else Latent2RGB* means TAESD if `models/vae_approx` has the decoder file (its name begins
  as stated), otherwise Latent2RGB. Of several names ComfyUI takes the first only, if any.
- *Default* means that no preview method is set; ComfyUI then shows nothing. With any of ComfyUI's
  other methods, SideStream shows at least as much as ComfyUI.
- The still preview of a video (three dimensions) is its first frame. ComfyUI shows only that.
- A *spectrogram* maps latents that are not images: time, or another sequence, runs to the right,
  and channels upwards. With an audio VAE at SideStream's node it can also be heard: StableAudio1,
  StableAudio3, ACEAudio, ACEAudio15, MiniMaxMusic3, and the sound of LTXAV and MiniMaxH3AV.
- A VAE connected to SideStream's node decodes the preview instead, and needs neither factors nor a
  decoder file.
"""


def main(arguments: Sequence[str]) -> int:
    """Write the page for these trees; `--rows FILE TREE` is for each tree's process."""
    if arguments[:1] == ["--rows"]:
        _, file, tree = arguments
        logging.disable(logging.WARNING)  # ComfyUI warns about every missing decoder file
        enter_comfyui(Path(tree))
        Path(file).write_text(json.dumps([asdict(row) for row in all_rows()]), "utf-8")
        return 0
    tables = {version(Path(tree)): rows_of(Path(tree)) for tree in arguments}
    PAGE.write_text(page(tables), "utf-8")
    lacking = [
        f"ComfyUI {number}: {row.format} has less with {', '.join(row.lacking())}"
        for number, rows in tables.items()
        for row in rows
        if row.lacking()
    ]
    print("\n".join([*lacking, f"Wrote {PAGE}: ComfyUI {', '.join(tables)}"]))
    return 1 if lacking else 0


def version(tree: Path) -> str:
    """The version of a ComfyUI tree."""
    text = (tree / "comfyui_version.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return "unknown" if found is None else found[1]


def rows_of(tree: Path) -> list[Row]:
    """The rows of a tree, computed in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tools.coverage", "--rows", str(file), str(tree)]
        subprocess.run(command, cwd=REPO, check=True)
        return [row_of_json(row) for row in json.loads(file.read_text("utf-8"))]


def row_of_json(row: dict[str, Any]) -> Row:
    """The row that `asdict` and JSON have converted to `row`."""
    for side in ("comfyui", "sidestream"):
        row[side] = {method: Shown(*shown) for method, shown in row[side].items()}
    return Row(**(row | {"animated": Shown(*row["animated"])}))


def page(tables: dict[str, list[Row]]) -> str:
    """The whole page, with a section for each version."""
    return "\n".join([INTRODUCTION, *(section(*table) for table in tables.items())])


def section(number: str, rows: list[Row]) -> str:
    """The page's section about one version of ComfyUI."""
    lines = [f"## ComfyUI {number}", "", line(HEADINGS), line(["---"] * len(HEADINGS))]
    lines += [line(row.cells()) for row in rows]
    without = [row.format for row in rows if row.sidestream["default"].best == NOTHING]
    if without:
        lines += ["", "Without a preview, except with a VAE that decodes to images:", ""]
        lines += [f"- {name}: {WHY_NOTHING.get(name, 'unknown')}" for name in without]
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


# --- within ComfyUI -----------------------------------------------------------------------------


def enter_comfyui(tree: Path) -> None:
    """Make the modules of the ComfyUI in `tree` importable, and the pack as `sidestream`."""
    from .launch import mend_torchvision_when_imported

    pack = types.ModuleType("sidestream")
    pack.__path__ = [str(REPO)]
    pack.__spec__ = importlib.machinery.ModuleSpec("sidestream", None, is_package=True)
    sys.modules["sidestream"] = pack
    # The server is not used, and its module needs many packages.
    server = types.ModuleType("server")
    server.PromptServer = object  # type: ignore[attr-defined]
    sys.modules["server"] = server
    sys.path.insert(0, str(tree))
    os.chdir(tree)
    mend_torchvision_when_imported()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True


def all_rows() -> list[Row]:
    """A row for each latent format of the importable ComfyUI, in its order."""
    import comfy.latent_formats

    base = comfy.latent_formats.LatentFormat
    kinds = [kind for kind in vars(comfy.latent_formats).values() if inspect.isclass(kind)]
    kinds = [kind for kind in kinds if issubclass(kind, base) and kind is not base]
    with tempfile.TemporaryDirectory() as folder, only_decoder_files_in(Path(folder)):
        return [row_of(kind(), Path(folder)) for kind in kinds]


def row_of(latent_format: Any, folder: Path) -> Row:
    """The row of a format, with decoder files in `folder`."""
    from sidestream.preview import host

    names = host.models.decoder_names(latent_format)
    kind = host.models.decoder_kind(latent_format)
    states = [everything_shown(latent_format)]
    if kind is not None:
        file = folder / f"{names[0]}.pth"
        write_decoder(file, kind, host.models.latent_channels(latent_format))
        states.append(everything_shown(latent_format))
        file.unlink()
    own, ours, animated = (
        {key: Shown(states[0][side][key], states[-1][side][key]) for key in states[0][side]}
        for side in range(3)
    )
    return Row(
        type(latent_format).__name__,
        latent_format.latent_channels,
        latent_format.latent_dimensions,
        " ".join(names),
        own,
        ours,
        animated["default"],
    )


Names = dict[str, str]


def everything_shown(latent_format: Any) -> tuple[Names, Names, Names]:
    """By method, at present: ComfyUI's still, SideStream's still, SideStream's animation."""
    import torch
    from sidestream.preview.capture import sources
    from sidestream.preview.decoders.protocols import VideoDecoder

    own, ours, animated = {}, {}, {}
    for method in METHODS:
        own[method] = own_previewer(latent_format, method)
        wanted = "auto" if method == "default" else method
        found = sources.find(wanted, latent_format, lambda level, line: None)
        ours[method] = animated[method] = NOTHING
        if found:
            decoder = found[0].load(torch.device("cpu"))
            ours[method] = OUR_DECODERS[found[0].name]
            if latent_format.latent_dimensions == 3 and isinstance(decoder, VideoDecoder):
                animated[method] = ours[method]
    return own, ours, animated


def own_previewer(latent_format: Any, method: str) -> str:
    """What ComfyUI's `get_previewer` returns for a format."""
    import comfy.cli_args
    import latent_preview
    import torch

    arguments, methods = comfy.cli_args.args, comfy.cli_args.LatentPreviewMethod
    before = arguments.preview_method
    arguments.preview_method = methods("none" if method == "default" else method)
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
    finally:
        arguments.preview_method = before
    return OWN_PREVIEWERS[type(previewer).__name__]


class Unloaded:
    """Stands for ComfyUI's decoders, since only the choice of one matters."""

    first_stage_model = types.SimpleNamespace()

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def to(self, device: torch.device) -> Unloaded:
        return self


@contextlib.contextmanager
def only_decoder_files_in(folder: Path) -> Iterator[None]:
    """Let ComfyUI look for decoder files only there, and not load any."""
    import comfy.utils
    import folder_paths
    import latent_preview

    patches: list[tuple[Any, str, Any]] = [
        (latent_preview, "TAESD", Unloaded),
        (latent_preview, "VAE", Unloaded),
        (comfy.utils, "load_torch_file", lambda *args, **kwargs: {}),
        (folder_paths, "cached_filename_list_", lambda name: None),
    ]
    patches = [patch for patch in patches if hasattr(*patch[:2])]  # older versions have no VAE
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    places = folder_paths.folder_names_and_paths
    vae_approx = places["vae_approx"]
    try:
        places["vae_approx"] = ([str(folder)], vae_approx[1])
        for patch in patches:
            setattr(*patch)
        yield
    finally:
        for patch in before:
            setattr(*patch)
        places["vae_approx"] = vae_approx
        folder_paths.filename_list_cache.pop("vae_approx", None)  # it names the temporary folder


def write_decoder(file: Path, kind: Kind, channels: int) -> None:
    """Write a decoder file with random weights, for latents with that many channels."""
    import torch
    from sidestream.benchmarks.weights import video_decoder
    from sidestream.preview.decoders import taehv, taesd

    if kind.family == "taehv":
        small = taehv.Layout(channels, widths=(8, 8, 8, 8), strides=(1, 2, 2), patch=1)
        torch.save(video_decoder(small), file)
        return
    layout = taesd.Layout(channels)
    if "Flux2" in kind.formats:  # latents are packed: it has a quarter of their channels
        layout = taesd.Layout(channels // 4, pooled=True)
    elif "QwenImage21" in kind.formats:
        layout = taesd.Layout(channels, widths=(16, 8, 4, 4), colours=4, patch=2)
    torch.save(taesd.layers_of(layout).state_dict(), file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
