"""`alsa:` and `pulse:` devices, recorded by the system's own programs.

FFmpeg's library as it comes with PyAV has no PulseAudio, and an ALSA that knows neither the system's configuration nor
its plug-ins; a device that blocks would also hold up a thread that nothing can wake. A program can be ended.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence

from bridge import child
from bridge.errors import SourceLost, SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns
from bridge.protocols.pcm import FrameCutter
from bridge.protocols.pcm_url import DeviceUrl

# A device gives fifty pieces a second; PulseAudio suspends one that nobody plays into.
IDLE_S = 10.0
_READ_BYTES = 65_536
# 20 ms, and ten of them before the device loses any.
_PERIOD_US, _BUFFER_US = 20_000, 200_000
# What somebody else has to let go of, or to start, before it can be opened.
_PASSING = ("busy", "refused", "timed out", "timeout")
_PACKAGES = {"arecord": "alsa-utils", "parec": "pulseaudio-utils"}


class DeviceSource:
    """Records from a device for as long as it is there."""

    is_live = True

    def __init__(self, name: str, device: DeviceUrl) -> None:
        self.name = name
        self._device = device
        self._label = f"input {name}: {device}"

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected, SourceLost."""
        command = _command(self._device)
        if shutil.which(command[0]) is None:
            raise SourceRejected(
                f"{self._label} needs the program {command[0]}, which is not installed "
                f"(Debian and Ubuntu: apt-get install {_PACKAGES[command[0]]})"
            )
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        listening = asyncio.create_task(child.last_words(process.stderr), name=f"words of {command[0]}")
        try:
            n_samples = await self._record(process.stdout, emit)
            words = await listening
        finally:
            await child.end(process)
            listening.cancel()
            await asyncio.wait((listening,))
        reason = words or f"{command[0]} has ended by itself"
        is_passing = n_samples or any(word in words.lower() for word in _PASSING)
        raise (SourceLost if is_passing else SourceRejected)(f"{self._label}: {reason}")

    async def _record(self, sound: asyncio.StreamReader, emit: Callable[[AudioBlock], Awaitable[None]]) -> int:
        """Deliver until the program ends; the number of samples that it gave. Raises SourceLost."""
        format, n_samples = self._device.format, 0
        cutter = FrameCutter(format)
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    piece = await sound.read(_READ_BYTES)
            except TimeoutError:
                raise SourceLost(f"{self._label}: nothing has come for {IDLE_S:g} s") from None
            if not piece:
                return n_samples
            samples = cutter.push(piece)
            await emit(AudioBlock(samples, format.rate_hz, ticks_to_ns(n_samples, format.rate_hz)))
            n_samples += len(samples)


def _command(device: DeviceUrl) -> Sequence[str]:
    rate, channels = str(device.format.rate_hz), str(device.format.n_channels)
    if device.scheme == "alsa":
        return (
            *("arecord", "--quiet", f"--device={device.name or 'default'}", "--file-type=raw", "--format=S16_LE"),
            *(f"--rate={rate}", f"--channels={channels}"),
            *(f"--period-time={_PERIOD_US}", f"--buffer-time={_BUFFER_US}"),
        )
    return (
        *("parec", "--raw", "--client-name=avatar-bridge", "--format=s16le", f"--rate={rate}"),
        *(f"--channels={channels}", f"--latency-msec={_PERIOD_US // 1_000}"),
        *([f"--device={device.name}"] if device.name else []),
    )
