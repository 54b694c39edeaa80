"""The graphs of ComfyUI's template browser: they are offered, they open, and nothing in them is
wrong but that a user may not have their models yet."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from sidestream.preview import decoder_files
from sidestream.preview.settings import FIELDS, checked, explicit
from sidestream.tests.workflows import to_prompt
from sidestream.tools.comfy_client import RequestRefused
from sidestream.tools.places import PACK_NAME, REPO

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.tests.conftest import HostFactory
    from sidestream.tools.comfy_client import ComfyClient

FILES = sorted((REPO / "example_workflows").glob("*.json"))
MODELS = {"ckpt_name", "unet_name", "clip_name", "vae_name"}
TITLE = 40  # pixels above a node

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))  # type: ignore[no-any-return]


@pytest.fixture
def client(comfy_host: HostFactory, connect: Callable[..., ComfyClient]) -> ComfyClient:
    return connect(comfy_host())


def test_there_is_one_of_each_kind() -> None:
    assert {file.stem.removeprefix("sidestream_") for file in FILES} == {
        "demo", "text_to_image", "two_samplers", "video",
    }  # fmt: skip


def test_comfyui_offers_each_with_its_picture(client: ComfyClient) -> None:
    assert set(client.get("/workflow_templates")[PACK_NAME]) == {file.stem for file in FILES}
    for file in FILES:
        address = f"/api/workflow_templates/{PACK_NAME}/{file.stem}"
        assert client.get(f"{address}.json") == read(file)
        picture = Image.open(io.BytesIO(client.get_bytes(f"{address}.jpg")))
        assert picture.size == (384, 384), file.stem


@each_file
def test_the_running_comfyui_finds_nothing_wrong(client: ComfyClient, file: Path) -> None:
    info = client.get("/object_info")
    prompt = to_prompt(read(file), lambda kind: info[kind]["input"])
    complaints: list[tuple[str, str, str]] = []
    try:
        client.queue(prompt)
        client.post("/queue", {"clear": True})
        client.post("/interrupt", {})
    except RequestRefused as refused:
        complaints = [
            (error["type"], error["extra_info"]["input_name"], error["details"])
            for node in refused.body["node_errors"].values()
            for error in node["errors"]
        ]
    assert [
        complaint
        for complaint in complaints
        if complaint[0] != "value_not_in_list" or complaint[1] not in MODELS
    ] == []
    assert bool(complaints) == (file.stem != "sidestream_demo")


@each_file
def test_both_ends_of_every_link_agree(client: ComfyClient, file: Path) -> None:
    info, workflow = client.get("/object_info"), read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, output, target, place, kind in workflow["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert number in out["links"]
        assert into["link"] == number
        assert out["type"] == into["type"] == kind == info[nodes[source]["type"]]["output"][output]
        types = info[nodes[target]["type"]]["input"]
        declared = types["required"].get(into["name"]) or types["optional"][into["name"]]
        assert declared[0] == kind
    ends = [i["link"] for node in nodes.values() for i in node["inputs"] if i["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in workflow["links"])


@each_file
def test_the_node_is_in_it_with_settings_that_are_right(file: Path) -> None:
    found = [node for node in read(file)["nodes"] if node["type"] == "SideStreamPreview"]
    assert found
    for node in found:
        checked(explicit(dict(zip(FIELDS, node["widgets_values"], strict=False))))


def test_the_two_samplers_have_different_throttles_and_the_video_is_animated() -> None:
    def settings(name: str) -> list[dict[str, Any]]:
        nodes = read(REPO / "example_workflows" / f"sidestream_{name}.json")["nodes"]
        ours = [node for node in nodes if node["type"] == "SideStreamPreview"]
        return [dict(zip(FIELDS, node["widgets_values"], strict=True)) for node in ours]

    draft, refining = settings("two_samplers")
    assert (draft["throttle_ms"], draft["every_n_steps"]) == (0, 1)
    assert (refining["throttle_ms"], refining["every_n_steps"]) == (1000, 2)
    (video,) = settings("video")
    assert video["video_frames"] > 1
    assert [each["throttle_ms"] for each in settings("text_to_image")] == [100]


@each_file
def test_a_note_says_how_to_begin_and_models_say_where_they_are(file: Path) -> None:
    nodes = read(file)["nodes"]
    assert [node["title"] for node in nodes if node["type"] == "MarkdownNote"] == ["Start here"]
    for node in nodes:
        if node["type"].endswith("Loader") or node["type"] == "CheckpointLoaderSimple":
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(f"/{model['name']}")


@pytest.mark.parametrize(
    ("name", "latent_format"),
    [("demo", None), ("text_to_image", "SD15"), ("two_samplers", "SD15"), ("video", "Wan21")],
)
def test_each_offers_the_decoder_of_its_model(name: str, latent_format: str | None) -> None:
    workflow = read(REPO / "example_workflows" / f"sidestream_{name}.json")
    ours = [node for node in workflow["nodes"] if node["type"] == "SideStreamPreview"]
    offered = [workflow.get("models"), *(node["properties"].get("models") for node in ours)]
    kind = decoder_files.kind_of(latent_format or "", None)
    if kind is None:
        assert offered == [None, None]
        return
    entry = {"name": kind.file, "url": kind.url, "directory": decoder_files.FOLDER}
    assert offered == [[entry]] * len(offered)
    (note,) = (node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    told = f"[{kind.file}]({kind.url}) ({kind.megabytes:g} MB) into `models/vae_approx`"
    assert told in note["widgets_values"][0] or name == "two_samplers"


@each_file
def test_nodes_do_not_overlap(file: Path) -> None:
    for one, other in itertools.combinations(read(file)["nodes"], 2):
        (x1, y1), (w1, h1) = one["pos"], one["size"]
        (x2, y2), (w2, h2) = other["pos"], other["size"]
        apart = x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 + TITLE <= y2 or y2 + h2 + TITLE <= y1
        assert apart, (one["type"], other["type"])
