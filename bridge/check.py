"""`avatar-bridge check --connect`: opens what a configuration names, says what was agreed on, and closes it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bridge.config import ClipConfig, Config, OutputConfig, SessionConfig, SlateConfig
from bridge.desk import Desk
from bridge.errors import (
    BridgeError,
    ConfigError,
    OutputError,
    OutputRejected,
    ProviderUnavailable,
    RemoteProtocolError,
    SourceLost,
)
from bridge.history import History
from bridge.inputs import open_clip, open_source
from bridge.inputs.runner import RetryingSource
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import decoder_configuration, parameter_sets, parse_sps
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.outputs import check_overlay, check_slate, open_output
from bridge.outputs.compliance import SoundFacts, StreamMeter, objections
from bridge.ports import AudioSource, AvatarEvent, AvatarLink, Output, RemoteTrack, ToolCall, TrackSink
from bridge.presets import Preset, Weight, find_preset
from bridge.providers import ice_settings, open_provider
from bridge.reception import Reception
from bridge.redact import mask
from bridge.track_reception import TrackReception
from bridge.uplink import Uplink

# Hand-shake, connectivity checks and a keyframe take two seconds with a service that is well. It is longer than the
# providers' own deadlines (four steps of 10 s; 30 s until an avatar joins a room), which give the better reason.
AVATAR_S = 45.0
INPUT_S = 10.0
# Where a preset is to be kept: three spans of the meter, and as many keyframes as most presets ask for. What an avatar
# sends that hears silence is the least that it sends.
WATCH_S = 6.5
# Longer than the sum of an output's own deadlines, which give the better reason.
OUTPUT_S = 40.0
_SAID: Mapping[Weight, str] = {"reject": "rejects", "advice": "advises against"}
# An offer to a WHIP server names the profile of a picture; this is what WebRTC's senders begin with. It is not sent.
_PICTURE = AccessUnit(Codec.H264, b"", 0, codec_config=decoder_configuration(bytes.fromhex("6742e01f"), b"\x68"))


def _print(line: str) -> None:
    print(line, flush=True)


async def check_connections(config: Config, tell: Callable[[str], object] = _print) -> bool:
    """Try every input, history, avatar and output in turn, and tell one line of each. Returns whether all are well."""
    is_well = True
    for name, session in config.sessions.items():
        async for what, finding in _findings(config, session):
            failed = isinstance(finding, BridgeError)
            is_well = is_well and not failed
            # A finding may repeat what a far end has said.
            tell(f"{'FAILED' if failed else 'ok':6}  {name}.{what}: {mask(str(finding))}")
    return is_well


async def _findings(config: Config, session: SessionConfig) -> AsyncIterator[tuple[str, str | BridgeError]]:
    for name, source in session.inputs.items():
        policy = UrlPolicy(config.url_policy.allow)
        opened_source = open_source(name, source, config.storage.dir, policy, ice_settings(config.ice), TrackReception)
        if isinstance(opened_source, RetryingSource):
            opened_source = opened_source.source  # its first failure is what there is to say
        if source.rendering is not None:
            yield f"inputs.{name}", _rendering(source.rendering, config)
        else:
            yield f"inputs.{name}", "waits for a publisher" if source.listens else await _input(opened_source)
    if session.avatar.history_file is not None:
        yield "avatar.history_file", await asyncio.to_thread(_history, session.avatar.history_file)
    presets = [output for output in session.outputs.values() if output.preset]
    viewer = _Viewer(WATCH_S if presets else 0.0, min((output.keyframe_s for output in presets), default=None))
    yield "avatar", await _avatar(session, ice_settings(config.ice), viewer)
    if session.slate.rendering is not None:
        yield "slate", _rendering(session.slate.rendering, config)
    else:
        yield "slate", await _slate(session.slate)
    for name, output in session.outputs.items():
        try:
            await asyncio.to_thread(check_overlay, name, output)
            policy = UrlPolicy(config.url_policy.allow)
            opened = open_output(name, output, config.storage, ice_settings(config.ice), policy)()
        except BridgeError as error:
            yield f"outputs.{name}", error
        else:
            yield f"outputs.{name}", "waits for a caller" if output.waits_for_caller else await _output(output, opened)
            if output.preset is not None and viewer.description:
                yield f"outputs.{name}.preset", _compliance(output, find_preset(output.preset), opened, viewer)


async def _input(source: AudioSource) -> str | BridgeError:
    blocks: list[AudioBlock] = []
    has_sound = asyncio.Event()

    async def take(block: AudioBlock) -> None:
        blocks.append(block)
        has_sound.set()
        await asyncio.Event().wait()  # one block is enough; the source is cancelled

    reading = asyncio.create_task(source.run(take))
    hearing = asyncio.create_task(has_sound.wait())
    try:
        await asyncio.wait((reading, hearing), timeout=INPUT_S, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        if not blocks:
            return SourceLost(f"no sound within {INPUT_S:g} s")
        return f"sound, {blocks[0].sample_rate_hz} Hz, {blocks[0].samples.shape[1]} channel(s)"
    except BridgeError as error:
        return error
    finally:
        reading.cancel()
        hearing.cancel()
        await asyncio.gather(reading, hearing, return_exceptions=True)


def _rendering(rendering: ClipConfig, config: Config) -> str | BridgeError:
    """A rendering costs money: it is not tried."""
    try:
        path = open_clip(rendering, config.storage.dir, UrlPolicy(config.url_policy.allow)).path
    except ConfigError as error:
        return error
    return f"{path} has been rendered" if path.exists() else "is rendered when the session starts (not tried here)"


async def _slate(slate: SlateConfig) -> str | BridgeError:
    try:
        await asyncio.to_thread(check_slate, slate)
    except ConfigError as error:
        return error
    return f"{slate.picture} can be shown"


def _history(path: Path) -> str | BridgeError:
    history = History(path)
    try:
        history.load()
    except ConfigError as error:
        return error
    return f"{path}: of what users said {len(history.users)} items are sent again"


async def _avatar(session: SessionConfig, ice: IceSettings, viewer: "_Viewer") -> str | BridgeError:
    provider = open_provider(session.avatar, ice)
    serving = asyncio.create_task(provider.run(viewer))
    feeding = asyncio.create_task(viewer.silence.run())
    watching = asyncio.create_task(viewer.has_seen.wait())
    try:
        await asyncio.wait((serving, watching), timeout=AVATAR_S, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        if not viewer.description:
            return ProviderUnavailable(f"{viewer.missing} within {AVATAR_S:g} s")
        return f"{viewer.description}; takes {', '.join(sorted(provider.capabilities)) or 'nothing'}"
    except BridgeError as error:
        return error
    finally:
        tasks = (serving, feeding, watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        viewer.reception.close()


class _Viewer:
    """Listens to an avatar until its session is ready and there is a keyframe and a sound, and as much longer as is
    wanted; sends it silence meanwhile.
    """

    def __init__(self, watch_s: float, keyframe_s: float | None) -> None:
        self.silence = Uplink(Desk(()))
        keyframe_interval_ns = None if keyframe_s is None else round(keyframe_s * NS_PER_S)
        self.reception = Reception(time.monotonic_ns(), self._on_unit, {}, keyframe_interval_ns)
        self.meter = StreamMeter()
        self.has_seen = asyncio.Event()
        self._watch_ns = round(watch_s * NS_PER_S)
        self._link: AvatarLink | None = None
        self._has_track = False
        self._is_long_enough = False
        self._units: dict[str, AccessUnit] = {}

    @property
    def description(self) -> str:
        """What it sends; empty before there was both, and the session is ready."""
        if self._link is None or self._units.keys() != {"audio", "video"}:
            return ""
        pictures, sound = _pictures(self._units["video"]), self._units["audio"].codec.value
        return f"{pictures}, {sound}, media {self._link.media_path}"

    @property
    def missing(self) -> str:
        """What has not come, before there was all."""
        if not self._has_track:
            return "no media connection came up"
        lacks = [f"no {what}" for what, kind in (("picture", "video"), ("sound", "audio")) if kind not in self._units]
        if not lacks:
            return "there is picture and sound, and the session did not become ready"
        return f"its media connection is up, and it sends {' and '.join(lacks)}"

    def on_track(self, track: RemoteTrack) -> TrackSink:
        self._has_track = True
        return self.reception.on_track(track)

    def on_ready(self, link: AvatarLink) -> None:
        self._link = link
        self.silence.attach(link)
        self._look()

    def on_limit(self, left_s: float) -> None:
        pass  # none is reached here

    def on_event(self, event: AvatarEvent) -> None:
        pass

    def on_tool_call(self, call: ToolCall) -> None:
        pass  # nothing was said that a tool could be called for

    def _on_unit(self, unit: AccessUnit) -> None:
        self.meter.put(unit)
        first = self._units.setdefault(unit.codec.kind, unit)
        self._is_long_enough = unit.pts_ns - first.pts_ns >= self._watch_ns
        self._look()

    def _look(self) -> None:
        # Pictures may come before the session is ready, and do not make it so.
        if self.description and self._is_long_enough:
            self.has_seen.set()


def _pictures(keyframe: AccessUnit) -> str:
    if keyframe.codec is not Codec.H264:
        name = keyframe.codec.value.upper()
        return f"{name}, which is encoded for outputs (with video: copy viewers hear it, and see the slate)"
    (sps,), _ = parameter_sets(keyframe.codec_config)
    video = parse_sps(sps)
    return f"H.264 {video.profile} {video.level:.1f} {video.width_px}x{video.height_px}"


async def _output(config: OutputConfig, output: Output) -> str | BridgeError:
    publication = _Publication()
    if config.scheme in ("file", "hls"):
        publication.units.finish()  # a recording begins with a picture: what can be tried is the place for it
    elif config.is_whip:
        publication.units.put(_PICTURE)
    try:
        async with asyncio.timeout(OUTPUT_S):
            await output.run(publication.units, publication)
    except (OutputError, RemoteProtocolError) as error:
        return error
    if config.is_whep:
        return f"{config.address} viewers may come"
    return f"{config.address}: {'publish accepted' if publication.is_accepted else 'may be written'}"


def _compliance(config: OutputConfig, preset: Preset, output: Output, viewer: "_Viewer") -> str | BridgeError:
    """What the platform would object to in what the avatar sends, with the sound in the output's codec."""
    bitrate = config.audio_bitrate if output.audio_codec is Codec.AAC else None
    sound = SoundFacts(is_present=True, codec=output.audio_codec.value, bitrate=bitrate)
    found = objections(preset, config.scheme, replace(viewer.meter.facts(), sound=sound))
    told = [f"{preset.title} {_SAID[each.weight]} {each.text} ({each.source})" for each in found]
    rejected = [each.rule for each in found if each.weight == "reject"]
    if (config.video == "copy" and rejected) or any(not rule.startswith("video.") for rule in rejected):
        return OutputRejected("; ".join(told))
    if rejected:
        told.append("so pictures will be encoded")
    return "; ".join(told) or f"{preset.title} has nothing against it"


class _Publication:
    """Ends an output as soon as it is accepted."""

    def __init__(self) -> None:
        self.units = LiveQueue(1.0)
        self.is_accepted = False

    def on_published(self) -> None:
        self.is_accepted = True
        self.units.finish()

    def on_replaced(self, reason: str) -> None:
        pass

    def on_written(self, unit: AccessUnit) -> None:
        pass

    def on_keyframe_request(self) -> None:
        pass
