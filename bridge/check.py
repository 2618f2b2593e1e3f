"""`avatar-bridge check --connect`: opens what a configuration names, says what was agreed on, and closes it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bridge.config import Config, OutputConfig, SessionConfig, SlateConfig
from bridge.desk import Desk
from bridge.errors import BridgeError, ConfigError, OutputError, ProviderUnavailable, RemoteProtocolError, SourceLost
from bridge.history import History
from bridge.inputs import open_source
from bridge.inputs.runner import RetryingSource
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.audio import AudioBlock
from bridge.media.h264 import PROFILE_NAMES, decoder_configuration, parameter_sets, parse_sps
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.outputs import check_slate, open_output
from bridge.ports import AudioSource, AvatarEvent, AvatarLink, Output, RemoteTrack, ToolCall, TrackSink
from bridge.providers import ice_settings, open_provider
from bridge.reception import Reception
from bridge.redact import mask
from bridge.track_reception import TrackReception
from bridge.uplink import Uplink

# Hand-shake, connectivity checks and a keyframe take two seconds with a service that is well.
AVATAR_S = 30.0
INPUT_S = 10.0
# Longer than the sum of an output's own deadlines, which give the better reason.
OUTPUT_S = 40.0
# An offer to a WHIP server names the profile of a picture; this is what WebRTC's senders begin with. It is not sent.
_PICTURE = AccessUnit(Codec.H264, b"", 0, codec_config=decoder_configuration(bytes.fromhex("6742e01f"), b"\x68"))


async def check_connections(config: Config) -> bool:
    """Try every input, history, avatar and output in turn, one line each. Returns whether all of them are well."""
    is_well = True
    for name, session in config.sessions.items():
        async for what, finding in _findings(config, session):
            failed = isinstance(finding, BridgeError)
            is_well = is_well and not failed
            # A finding may repeat what a far end has said.
            print(f"{'FAILED' if failed else 'ok':6}  {name}.{what}: {mask(str(finding))}", flush=True)
    return is_well


async def _findings(config: Config, session: SessionConfig) -> AsyncIterator[tuple[str, str | BridgeError]]:
    for name, source in session.inputs.items():
        policy = UrlPolicy(config.url_policy.allow)
        opened_source = open_source(name, source, config.storage.dir, policy, ice_settings(config.ice), TrackReception)
        if isinstance(opened_source, RetryingSource):
            opened_source = opened_source.source  # its first failure is what there is to say
        yield f"inputs.{name}", "waits for a publisher" if source.listens else await _input(opened_source)
    if session.avatar.history_file is not None:
        yield "avatar.history_file", await asyncio.to_thread(_history, session.avatar.history_file)
    yield "avatar", await _avatar(session, ice_settings(config.ice))
    yield "slate", await _slate(session.slate)
    for name, output in session.outputs.items():
        try:
            policy = UrlPolicy(config.url_policy.allow)
            opened = open_output(name, output, config.storage, ice_settings(config.ice), policy)()
        except BridgeError as error:
            yield f"outputs.{name}", error
        else:
            yield f"outputs.{name}", await _output(output, opened)


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
        await asyncio.wait((reading, hearing))


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


async def _avatar(session: SessionConfig, ice: IceSettings) -> str | BridgeError:
    viewer = _Viewer()
    provider = open_provider(session.avatar, ice)
    serving = asyncio.create_task(provider.run(viewer))
    feeding = asyncio.create_task(viewer.silence.run())
    watching = asyncio.create_task(viewer.has_seen.wait())
    try:
        await asyncio.wait((serving, watching), timeout=AVATAR_S, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        if not viewer.has_seen.is_set():
            return ProviderUnavailable(f"no picture and sound within {AVATAR_S:g} s")
        return f"{viewer.description}; takes {', '.join(sorted(provider.capabilities))}"
    except BridgeError as error:
        return error
    finally:
        tasks = (serving, feeding, watching)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        viewer.reception.close()


class _Viewer:
    """Listens to an avatar until its first keyframe and its first sound, and sends it silence meanwhile."""

    def __init__(self) -> None:
        self.silence = Uplink(Desk(()))
        self.reception = Reception(time.monotonic_ns(), self._on_unit, {})
        self.has_seen = asyncio.Event()
        self._link: AvatarLink | None = None
        self._units: dict[str, AccessUnit] = {}

    @property
    def description(self) -> str:
        path = f", media {self._link.media_path}" if self._link else ""
        return f"{_pictures(self._units['video'])}, {self._units['audio'].codec.value}{path}"

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self.reception.on_track(track)

    def on_ready(self, link: AvatarLink) -> None:
        self._link = link
        self.silence.attach(link)

    def on_limit(self, left_s: float) -> None:
        pass  # none is reached here

    def on_event(self, event: AvatarEvent) -> None:
        pass

    def on_tool_call(self, call: ToolCall) -> None:
        pass  # nothing was said that a tool could be called for

    def _on_unit(self, unit: AccessUnit) -> None:
        self._units.setdefault(unit.codec.kind, unit)
        if self._units.keys() == {"audio", "video"}:
            self.has_seen.set()


def _pictures(keyframe: AccessUnit) -> str:
    if keyframe.codec is not Codec.H264:
        return f"{keyframe.codec.value.upper()}, which no output can carry (viewers will hear it, and see the slate)"
    (sps,), _ = parameter_sets(keyframe.codec_config)
    video = parse_sps(sps)
    profile = PROFILE_NAMES.get(video.profile_idc, f"profile {video.profile_idc}")
    return f"H.264 {profile} {video.level_idc / 10:.1f} {video.width_px}x{video.height_px}"


async def _output(config: OutputConfig, output: Output) -> str | BridgeError:
    publication = _Publication()
    if config.scheme == "file":
        publication.units.finish()  # a recording begins with a picture: what can be tried is the place for it
    elif config.is_whip:
        publication.units.put(_PICTURE)
    try:
        async with asyncio.timeout(OUTPUT_S):
            await output.run(publication.units, publication)
    except (OutputError, RemoteProtocolError) as error:
        return error
    return f"{config.address}: {'publish accepted' if publication.is_accepted else 'may be written'}"


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
