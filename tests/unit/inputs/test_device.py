"""Devices, recorded by a program that a test puts in place of the system's."""

import asyncio
import os
from pathlib import Path

import pytest

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs.device import DeviceSource
from bridge.protocols.pcm_url import parse_device
from tests.unit.inputs.test_file import joined, play
from tests.unit.inputs.test_pcm import Heard


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_samples_are_heard_until_the_device_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "arecord", "printf 12345678; echo 'read error: No such device' >&2; exit 1")
    heard = Heard()
    with pytest.raises(SourceLost, match="input mic: alsa:hw:1,0: read error: No such device"):
        await DeviceSource("mic", parse_device("alsa:hw:1,0?rate=16000&channels=2")).run(heard.emit)
    assert joined(heard.blocks).tobytes() == b"12345678" and joined(heard.blocks).shape == (2, 2)
    arguments = (tmp_path / "arguments").read_text().split()
    assert {"--device=hw:1,0", "--rate=16000", "--channels=2", "--format=S16_LE"} <= {*arguments}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("arecord: main:830: audio open error: No such file or directory", SourceRejected),
        ("arecord: main:830: audio open error: Device or resource busy", SourceLost),
        ("", SourceRejected),
    ],
)
async def test_device_that_does_not_open_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, error: type[Exception]
) -> None:
    program(tmp_path, monkeypatch, "arecord", f"echo '{words}' >&2; exit 1")
    with pytest.raises(error, match=f"input mic: alsa:: {words or 'arecord has ended by itself'}"):
        await play(DeviceSource("mic", parse_device("alsa:")))


async def test_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceRejected, match=r"needs the program parec, .*apt-get install pulseaudio-utils"):
        await play(DeviceSource("mic", parse_device("pulse:")))


async def test_program_is_ended_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "parec", f"echo $$ > {tmp_path}/pid; printf 1234; exec sleep 60")
    heard = Heard()
    running = asyncio.create_task(DeviceSource("mic", parse_device("pulse:x")).run(heard.emit))
    await heard.samples(2)
    pid = int((tmp_path / "pid").read_text())
    running.cancel()
    async with asyncio.timeout(2):
        await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
