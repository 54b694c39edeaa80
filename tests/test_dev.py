"""dev.py on machines on which something is missing or in the way."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from sidestream.tools import check, cli, doctor, host
from sidestream.tools.environment import SetupError


def test_a_python_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "python"))
    monkeypatch.setattr(cli, "keep_bytecode_in_cache", lambda: None)
    assert cli.main(["check"]) == 1
    assert f"COMFYUI_PYTHON is {tmp_path / 'python'}" in capsys.readouterr().err
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert host.get_host().python == Path(sys.executable)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.0 200 OK\r\n\r\n<!doctype html>", b""]
)
def test_the_doctor_says_that_it_is_no_comfyui(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(SetupError, match="ComfyUI"):
            doctor.ask(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_narrow_console_costs_a_character_not_the_report(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(cli, "keep_bytecode_in_cache", lambda: None)
    monkeypatch.setattr(cli, "doctor", lambda *_: print("report\u2026", flush=True))
    cli.main(["doctor"])
    assert console.buffer.getvalue().split() == [b"report\\u2026"]


def test_the_contact_sheet_may_go_into_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDESTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "get_host", lambda: None)
    monkeypatch.setattr(cli, "_run_demo", lambda *arguments: Path(arguments[-1]).write_bytes(b"it"))
    monkeypatch.setattr(cli, "keep_bytecode_in_cache", lambda: None)
    assert cli.main(["demo", "--headless", "--sheet", str(tmp_path / "a" / "b.png")]) == 2
    assert (tmp_path / "a" / "b.png").exists()


def test_npms_packages_are_installed_until_that_is_complete_and_when_they_change(
    tmp_path, monkeypatch
):
    ran: list[str] = []

    def run(command: Any, **_: Any) -> CompletedProcess:
        ran.append(command[1])
        return CompletedProcess(command, 0)

    monkeypatch.setattr(check, "REPO", tmp_path)
    monkeypatch.setattr(check.shutil, "which", lambda name: name)
    monkeypatch.setattr(check.subprocess, "run", run)
    folder = tmp_path / "tools" / "web"
    (folder / "node_modules" / "typescript").mkdir(parents=True)  # and then it was interrupted
    wanted, done = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    wanted.touch()
    assert check._types_of_web(None) == 0
    done.touch()
    assert check._types_of_web(None) == 0
    os.utime(wanted, (2e9, 2e9))  # another version, with a pull
    assert check._types_of_web(None) == 0
    assert ran == ["ci", "run", "run", "ci", "run"]
