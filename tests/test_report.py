"""The report that users post: right about what is installed, silent about who they are."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from aiohttp import web
from sidestream.tests.graphs import demo_graph
from sidestream.tools import doctor
from sidestream.tools.cli import main
from sidestream.tools.comfy_client import ComfyClient
from sidestream.tools.environment import SetupError

if TYPE_CHECKING:
    from sidestream.preview.pack import Pack
    from sidestream.tests.conftest import HostFactory, HostModules
    from sidestream.tests.stage import Stage
    from sidestream.tools.host import Host

PERSON = "Marie Marker-Mann"


@pytest.fixture
def report(comfy: HostModules, stage: Stage) -> Any:
    """The module, imported after ComfyUI."""
    from sidestream.preview import report

    return report


@pytest.fixture
def heard(report: Any) -> Iterator[Any]:
    """Listens to the pack's loggers, as a loaded pack does."""
    warnings = report.Warnings()
    warnings.listen()
    yield warnings
    warnings.close()


def section(text: str, title: str) -> list[str]:
    """The lines of one section."""
    return [line.strip() for line in text.split(f"\n{title}\n")[1].split("\n\n")[0].splitlines()]


# Paths and names


@pytest.fixture
def private(report: Any) -> Callable[[str], str]:
    folders = {
        "/home/marie/Comfy.UI": "ComfyUI",
        "/mnt/Marie's disk/vae": "<vae_approx>",
        "D:\\Marie M\\ComfyUI": "ComfyUI",
        "/srv/jos\u00e9/ComfyUI": "ComfyUI",
        "/": "nothing lies here",
    }
    return report.Private(folders, ["marie", "user", "m1", "jos\u00e9", "\u674e\u660e"])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/marie/Comfy.UI/models/a.pth is bad", "ComfyUI/models/a.pth is bad"),
        ("/mnt/Marie's disk/vae/a.pth: bad", "<vae_approx>/a.pth: bad"),
        ("d:/marie m/comfyui/models/a.pth", "ComfyUI/models/a.pth"),
        (r"'D:\Marie M\ComfyUI\a.pth'", r"'ComfyUI\a.pth'"),
        ("/home/marie/Comfy_x_UI/custom_nodes/p.nodes", "ComfyUI/custom_nodes/p.nodes"),
        ("in /home/marie/Comfy.UI-old/b", "in <path>"),
        ("No such file: '/srv/Marie and Tom/a b.pth' (2)", "No such file: '<path>' (2)"),
        ('No such file: "/srv/Marie\'s/a b.pth" (2)', 'No such file: "<path>" (2)'),
        (r"C:\Users\Marie M\a.pth is bad", "<path> is bad"),
        (r"\\server\Marie\a.pth is bad", "<path> is bad"),
        ("file:///srv/private/a.pth", "file://<path>"),
        ("[Errno 13] /secret", "[Errno 13] <path>"),
        ("for Marie, marie_2 and mariette", "for <name>, <name>_2 and mariette"),
        ("the user of m1", "the user of m1"),
        ("Jos\u00e9's or, for consoles, Jos\\xe9's", "<name>'s or, for consoles, <name>'s"),
        ("\u674e\u660e and \\u674e\\u660e", "<name> and <name>"),
        ("/srv/jos\\xe9/ComfyUI/a.pth is bad", "ComfyUI/a.pth is bad"),
        ("client 0123456789abcdef0123456789ABCDEF gone", "client <id> gone"),
        ("12345678-1234-1234-1234-123456789abc", "<id>"),
        ("32 / 32 steps and/or models/vae_approx/x", "32 / 32 steps and/or models/vae_approx/x"),
        ("two\nlines", "two lines"),
        ("a<b>/srv/Marie/x", "a<b><path>"),
        ("(see)/srv/Marie/x", "(see)<path>"),
        ("gone./srv/Marie/x", "gone.<path>"),
        ("in/home/tom/x and/or on/mnt/tom's/x", "in<path>'s/x"),
        (r"onC:\Users\Marie M\a.pth and more", "on<path> and more"),
        ("see http://docs", "see http:/<path>"),
        ("onC:/Users/Marie/a.pth", "on<path>"),
        ("</home/marie/Comfy.UI/models/a.pth>", "<ComfyUI/models/a.pth>"),
        ("ComfyUI/a.pth and <vae_approx>/a.pth", "ComfyUI/a.pth and <vae_approx><path>"),
        ("/mnt/Marie's disk/vae/sub/a.pth", "<vae_approx>/sub/a.pth"),
        ("\ue0000\ue001", "0"),
    ],
)  # fmt: skip
def test_what_is_the_users_own_is_taken_out(private: Any, text: str, expected: str) -> None:
    assert private(text) == expected


def test_taking_out_takes_time_that_grows_with_the_text_and_no_faster(private: Any) -> None:
    def seconds(text: str) -> float:
        start = time.thread_time()  # the processor's, which others may keep from it
        private(text)
        return time.thread_time() - start

    for piece in ("/", "\\", "'/a", "/a b", "C:/", "/home/marie", "marie", "0123456789abcdef" * 2):
        private(piece * 1000)
        short, long = (min(seconds(piece * n) for _ in range(3)) for n in (2_000, 64_000))
        assert long < 32 * 8 * short + 0.05, piece


def test_a_long_text_is_shortened(private: Any) -> None:
    assert len(private("word " * 1000)) == 400


# Warnings


def test_warnings_of_all_modules_are_kept_and_counted(report: Any, heard: Any) -> None:
    log = logging.getLogger("sidestream.preview.decoders")
    for _ in range(3):
        log.warning("a file of %d bytes", 7)
    log.info("nothing")
    logging.getLogger("sidestream.nodes").warning("not ours")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("It failed.")
    assert [(text, count) for text, count, _ in heard.all()] == [
        ("a file of 7 bytes", 3),
        ("It failed. ValueError: why", 1),
    ]


def test_warnings_are_bounded_in_number_and_length(report: Any, heard: Any) -> None:
    log = logging.getLogger("sidestream.preview.render.worker")
    for number in range(500):
        log.warning("%d %s", number, "x" * 100_000)
    kept = heard.all()
    assert [text.split()[0] for text, _, _ in kept] == [str(n) for n in range(480, 500)]
    assert max(len(text) for text, _, _ in kept) <= heard.LONGEST


def test_a_closed_pack_hears_no_more(report: Any, make_pack: Callable[[], Pack]) -> None:
    handlers = logging.getLogger("sidestream.preview").handlers
    before = list(handlers)
    pack = make_pack()
    assert len(handlers) == len(before) + 1
    pack.close()
    assert handlers == before


# The text


def test_it_names_versions_settings_and_who_is_in_charge(report: Any, pack: Pack) -> None:
    from sidestream.preview.settings import FIELDS

    text = pack.report()
    status = pack.status()
    versions = section(text, "Versions")
    assert versions[0] == f"SideStream {status['version']}"
    assert versions[1].startswith(f"ComfyUI {status['comfyui']}, page ")
    assert f"torch {torch.__version__}" in versions[2]
    assert section(text, "Default settings") == [
        f"{name}: {field.default}" for name, field in FIELDS.items()
    ]
    assert "in charge: SideStream" in section(text, "Previews")
    assert section(text, "Last warnings") == ["none"]


def test_a_pack_that_is_not_installed_says_why(
    report: Any, stage: Stage, make_pack: Callable[[], Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(stage.comfy.latent_preview, "get_previewer")
    text = make_pack().report()
    assert section(text, "Previews")[:3] == [
        "SideStream is not installed",
        "because: latent_preview.get_previewer is missing",
        "in charge: ComfyUI",
    ]
    assert "is incompatible" in section(text, "Last warnings")[0]


def test_a_section_that_fails_leaves_the_others(
    report: Any, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise OSError(2, "gone", "/srv/Marie/x")

    host = report.host
    for module, name in (
        (host.models, "formats_by_decoder"),
        (host.installation, "folders"),
        (host.installation, "sampling_device"),
    ):
        monkeypatch.setattr(module, name, fail)
    text = pack.report()
    for title in ("Devices", "Decoder files in models/vae_approx"):
        assert section(text, title) == ["unknown (FileNotFoundError: [Errno 2] gone: '<path>')"]
    assert "in charge: SideStream" in section(text, "Previews")


def test_why_a_device_is_not_used_is_told_without_paths(report: Any, pack: Pack) -> None:
    worker = {"device": "cuda:0", "path": "CPU", "share": 0.0, "problem": "no /srv/Marie/x.dll"}
    status = pack.status() | {"devices": [worker]}
    line = section(report.report(status, report.Warnings()), "Devices")[-1]
    assert line == "previews of latents on cuda:0: CPU because no <path>, share 0.0%"


def test_decoder_files_are_found_by_comfyuis_own_rule(report: Any, comfy: HostModules) -> None:
    formats = {name: kinds[0] for name, kinds in report.host.models.formats_by_decoder().items()}
    assert {"taesd_decoder", "taesdxl_decoder", "taef1_decoder", "taehv"} <= set(formats)
    folder = comfy.base_dir / "models" / "vae_approx"
    # ComfyUI takes whatever begins with the name, and knows a file by its ending.
    names = {"taesd_decoder": "taesd_decoder-v2.safetensors", "taehv": "taehv.pth"}
    files = [*names.values(), "taef1_decoder.txt", "my_taesd3_decoder.pth"]
    for file in files:
        (folder / file).write_bytes(b"12345")
    try:
        lines = dict(line.split(": ", 1) for line in report._decoder_files(report._private()))
        for name, kind in formats.items():
            there = report.host.installation.decoder_file(name) is not None
            assert there == (name in names), name
            expected = f"{names[name]}, 5 bytes" if there else "missing"
            assert lines[name].startswith(f"{expected} (for {kind}"), name
    finally:
        for file in files:
            (folder / file).unlink()


# The whole, in a ComfyUI of a person with a name


def test_nothing_personal_is_in_the_report_of_a_real_run(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidestream.tests.conftest import HostFactory

    home = tmp_path / PERSON
    elsewhere = tmp_path / "disk of Marker-Mann" / "vae"
    for folder in (home / "v1.5", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "taesd_decoder.pth").write_bytes(b"no weights")
    config = home / "paths.yaml"
    config.write_text(f"mine:\n  vae_approx: '{elsewhere.as_posix()}'\n", "utf-8")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, PERSON)
    factory = HostFactory(host, home / "v1.5")
    try:
        running = factory("--extra-model-paths-config", str(config))
        with ComfyClient(running.url) as client:
            run = client.run(demo_graph({"method": "taesd", "throttle_ms": 0}, steps=5))
            text = client.get_bytes("/sidestream/report").decode()
            client_id = client.client_id
    finally:
        factory.stop_all()
    assert run.outcome == "success"
    files = section(text, "Decoder files in models/vae_approx")
    assert "taesd_decoder: taesd_decoder.pth, 10 bytes (for SD15)" in files
    assert "taesdxl_decoder: missing (for SDXL, SDXL_Playground_2_5)" in files
    (warning,) = section(text, "Last warnings")
    assert "(taesd_decoder.pth is not a TAESD decoder" in warning
    assert "runs: 1" in section(text, "Counters")
    small = text.lower()
    own = [*PERSON.lower().split(), tmp_path.name, sys.prefix, client_id, socket.gethostname()]
    assert [word for word in own if word.lower() in small] == []


# The command


def test_the_doctor_prints_the_report_of_the_comfyui_that_runs(
    comfy_host: HostFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    port = comfy_host().url.rpartition(":")[2]
    assert main(["doctor", "--port", port]) == 0
    assert capsys.readouterr().out.startswith("SideStream report\n")


def test_the_doctor_starts_a_comfyui_where_none_runs(
    comfy_host: HostFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as held:  # or another test's server could take the port meanwhile
        held.bind(("127.0.0.1", 0))
        free = held.getsockname()[1]
        assert doctor.doctor(free, lambda: comfy_host(fresh=True)) == 0
    said = capsys.readouterr().out
    assert f"No ComfyUI is running on port {free}." in said
    assert "\nSideStream report\n" in said
    assert "in charge: SideStream" in said


def test_the_doctor_says_where_there_is_no_sidestream() -> None:
    async def ask() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        [(host, port)] = runner.addresses
        try:
            with pytest.raises(SetupError, match="without SideStream"):
                await asyncio.to_thread(doctor.ask, f"http://{host}:{port}")
        finally:
            await runner.cleanup()

    asyncio.run(ask())
