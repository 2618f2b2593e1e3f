"""Every fault that the local avatar service knows: where the session ends, which metric tells, and what is logged."""

import asyncio
import json
import wave
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import pytest

from bridge.local_avatar.faults import FAULTS, Fault
from tests.e2e import recorded
from tests.e2e.processes import PATIENCE_S, Avatar, Daemon, Metrics, Setting, Show
from tests.e2e.test_clips import FAULTS as CLIP_FAULTS
from tests.e2e.test_livekit import FAULTS as ROOM_FAULTS
from tests.e2e.test_navtalk_legacy import FAULTS as LEGACY_FAULTS

# Faults that strike late do so after 2 s: what is live then has to be so for 2 s more.
N_PICTURES = 25 * (2 + 2)
# Shorter than what a connection lasts that ends after 2 s, each time anew.
N_PICTURES_AGAIN = 25
# What /readyz says of it.
READINESS = {"stopped": "has failed", "slate": "shows its slate"}
# Two deadlines of the hand-shake, 10 s each, the delay between them, and a machine that is busy.
MUTE_S = 45.0
# More than a keyframe's distance of the slate.
SLATE_S = 3.0
PICTURES = "added_latency_seconds_count"  # of the avatar: the latency of a slate is not counted
SLATE_SECONDS = 'slate_seconds_total{reason="avatar"}'
ENCODES = 'output_mode{mode="encode",reason="codec"}'
WRITTEN = "output_bytes_total"
RECEIVED = 'rtp_packets_total{result="received"}'
OFFSET = "av_offset_seconds"
# Nothing that the bridge counts tells of the fault or of its being survived: the service's log line does, alone.
NOTHING = ""

# slate: what only an operator can change, once there has been a picture: the broadcast goes on without the avatar.
# stopped: the same before the first one.
# renewed: the next session was on air before the first one's end.
End = Literal["live", "live again", "renewed", "retrying", "slate", "stopped"]


@dataclass(frozen=True)
class Case:
    """One or more faults together.

    ends     where the session does.
    moved    a metric that only the fault moves, or that it was survived, and `beyond` what: sums there without it.
    also     further ones.
    words    in the error, where it comes to one.
    role     conversation: a sound is said, and the avatar answers it.
    logged   an event that tells of the fault besides, with these `fields`.  unlogged: one that must not come.
    offset   where `av_offset_seconds`, which takes sender reports, is not as ever.
    n_files  recordings, each with pictures of one kind.
    """

    fault: str
    ends: End
    moved: str = NOTHING
    words: str = ""
    beyond: float = 0.0
    also: tuple[str, ...] = ()
    role: str = "speak"
    logged: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    unlogged: str = ""
    offset: Literal["", "absent", "late"] = ""
    n_files: int = 1


def talk(fault: str) -> Case:
    """A case whose events hold something, which has to be read."""
    transcripts = (events("user_transcript"), events("avatar_transcript"))
    return Case(fault, "live", events("response_started"), also=transcripts, role="conversation")


def reconnects(reason: str) -> str:
    return f'provider_reconnects_total{{reason="{reason}"}}'


def events(kind: str) -> str:
    return f'provider_events_total{{type="{kind}"}}'


# Greeting and offer are four events of which nothing more is said; offers, answers and candidates come on top.
SIGNALLED = events("other")
NO_ICE_SERVERS = "avatar_service_names_no_ice_servers"

# The second connection takes over because it carries media, not because the first one is closed.
HANDED_OVER = Case(
    "duplicate-offers:2", "live", SIGNALLED, beyond=4, logged="avatar_media_handed_over", fields={"has_media": True}
)

GROUPS = {
    "signalling": (
        Case("late-offer:2", "live", "time_to_first_frame_seconds_sum", beyond=2.0),
        HANDED_OVER,
        Case("renegotiate:2", "live", SIGNALLED, beyond=4),
        Case("media-close:2", "live", SIGNALLED, beyond=4, logged="avatar_media_lost"),
        Case("media-lost:2", "live", SIGNALLED, beyond=4, logged="avatar_media_lost"),
        Case("trickle-only", "live", SIGNALLED, beyond=4),
        Case("early-candidates", "live", SIGNALLED, beyond=4),
    ),
    "streams": (
        Case("no-reports", "live", offset="absent"),
        Case("late-reports:2", "live", offset="late"),
        Case("size-change:2", "live", n_files=2),
        Case("sps-change:2", "live", n_files=2),
        Case("timestamp-reset:2", "live"),
        # A keyframe is due every 2 s: in between only the change asks for one.
        Case("ssrc-change:3", "live", 'pli_total{direction="sent",reason="loss"}'),
    ),
    "packets": (
        Case("loss:5", "live", 'rtp_packets_total{result="recovered"}'),
        Case("reorder:5", "live", 'rtp_packets_total{result="late"}'),
        Case("clock-drift:500", "live"),
        Case("video-delay:0.2", "live"),
        Case("ignore-pli", "live", 'pli_total{direction="sent"}', beyond=2, logged="keyframe_requests_ignored"),
        Case("media-stall:2", "live again", reconnects("media"), "no media for 2 s"),
        Case("vp8-only", "live", ENCODES),
    ),
    "ends at once": (
        Case("bad-licence:0", "stopped", events("ended"), "check the licence"),
        Case("balance:0", "stopped", events("ended"), "top up the account"),
        Case("points:0", "stopped", events("ended"), "top up the account"),
        Case("gpu-full:0", "retrying", reconnects("gpu_full"), "full for now"),
        Case("connection-limit:0", "retrying", reconnects("connection_limit_exceeded"), "too many sessions"),
        Case("backend-error:0", "retrying", reconnects("backend_error"), "a fault of its own"),
    ),
    "ends later": (
        Case("bad-licence:2", "slate", events("ended"), "check the licence"),
        Case("balance:2", "slate", events("ended"), "top up the account"),
        Case("points:2", "slate", events("ended"), "top up the account"),
        Case("gpu-full:2", "live again", reconnects("gpu_full"), "full for now"),
        Case("connection-limit:2", "live again", reconnects("connection_limit_exceeded"), "too many sessions"),
        Case("backend-error:2", "live again", reconnects("backend_error"), "a fault of its own"),
    ),
    "frames": (
        Case("bad-json", "live", events("unknown")),
        Case("unknown-events", "live", events("unknown")),
        Case("binary-frames", "live", events("unknown")),
        Case("malformed-events", "live", events("malformed")),
        Case("sdp-string", "live", RECEIVED),
        Case("slow-accept:2", "live", "time_to_first_frame_seconds_sum", beyond=2.0),
    ),
    "nesting": (
        *(talk(f"nesting:{how}") for how in FAULTS["nesting"].choices),
        Case("ice-servers:none", "live", logged=NO_ICE_SERVERS),
        Case("ice-servers:string", "live", unlogged=NO_ICE_SERVERS),
    ),
    "spelling": (
        *(talk(f"spelling:{how}") for how in FAULTS["spelling"].choices),
        Case("ice-servers:list", "live", unlogged=NO_ICE_SERVERS),
        Case("ice-servers:snake", "live", unlogged=NO_ICE_SERVERS),
    ),
    "aliases": (
        *(
            replace(case, also=(*case.also, events("response_done")))
            for case in (talk("alias:openai"), talk("alias:apps"))  # the third is about tools alone
        ),
        Case("alias:apps gpu-full:2", "live again", reconnects("gpu_full"), "full for now"),
        Case("alias:apps balance:2", "slate", events("ended"), "top up the account"),
        # In the role speak nobody is listened to, unless the service barges in.
        Case("barge-in:2", "live", events("speech_started")),
    ),
    "socket": (
        Case("ws-drop:2", "live again", reconnects("disconnected"), "the connection is gone"),
        Case("ws-close:2", "live again", reconnects("disconnected"), "the connection is gone"),
        *(
            Case(f"close-at:{step}", "retrying", reconnects("disconnected"), "was awaited", role="conversation")
            for step in FAULTS["close-at"].choices
        ),
    ),
    "mute": (
        *(
            Case(f"mute-at:{step}", "retrying", reconnects("handshake"), "within 10 s", role="conversation")
            for step in FAULTS["mute-at"].choices
        ),
        Case("no-offer", "retrying", reconnects("handshake"), "within 10 s"),
        # Beside those, because it takes its time too: the next session is opened at once, and waits for a pause.
        Case("session-limit:15", "renewed", reconnects("renewal"), logged="avatar_session_limited"),
    ),
    "together": (
        replace(talk("nesting:double spelling:snake unknown-events"), moved=events("unknown")),
        Case(
            "early-candidates sdp-string ice-servers:snake bad-json",
            "live",
            events("unknown"),
            unlogged=NO_ICE_SERVERS,
        ),
        replace(HANDED_OVER, fault="duplicate-offers:2 renegotiate:2", beyond=5),
        replace(HANDED_OVER, fault="renegotiate:2 duplicate-offers:2 early-candidates", beyond=5),
        Case("loss:2 reorder:2 ssrc-change:2 late-reports:1", "live", 'rtp_packets_total{result="recovered"}'),
        Case("size-change:1 timestamp-reset:2 clock-drift:-200", "live", n_files=2),
    ),
}


def test_every_fault_has_a_case() -> None:
    tried = {fault.partition(":")[0] for group in GROUPS.values() for case in group for fault in case.fault.split()}
    assert tried == set(FAULTS) - {*LEGACY_FAULTS, *CLIP_FAULTS, *ROOM_FAULTS}


# Up to eight avatars are drawn at a time, which takes a core: where four tests share two they would not be live.
@pytest.mark.paired
@pytest.mark.parametrize("group", GROUPS)
async def test_a_fault_ends_where_it_should(group: str, avatar: Avatar, tmp_path: Path, show: Show) -> None:
    cases = {f"s{number}": case for number, case in enumerate(GROUPS[group], 1)}
    setting = Setting(tmp_path)
    sound = one_sound(tmp_path)
    for name, case in cases.items():
        query = urlencode([("fault", fault) for fault in case.fault.split()])
        setting.add_session(name, f"{avatar.url}?{query}", role=case.role)
        setting.recording(session=name)
        if case.role == "conversation":
            setting.input(sound, session=name)
    n_lines = len(avatar.lines)
    async with setting.daemon() as daemon, scraping(daemon) as scrapes:
        endings = (ending(daemon, scrapes, name, case) for name, case in cases.items())
        verdicts = dict(zip(cases, await asyncio.gather(*endings), strict=True))
        failed = [name for name, case in cases.items() if case.ends in READINESS]
        if failed:
            verdict = READINESS[cases[failed[0]].ends]
            assert (await daemon.unreadiness()).startswith(f"session {failed[0]} {verdict}: ")
        metrics = await daemon.metrics()
        status = await daemon.stop()

    exceptions = {name: exceptions_in(daemon.stderr, name) for name in cases}
    rows = [
        f"{case.fault:<57}{verdicts[name] or case.ends:<12}"
        f"{shown(case, metrics, name):<72}{exceptions[name]} exceptions"
        for name, case in cases.items()
    ]
    show("\n".join(rows))
    if wrong := list(filter(None, verdicts.values())):
        pytest.fail("\n".join((*wrong, *daemon.stderr)), pytrace=False)
    assert status == (1 if failed else 0)
    assert not exceptions_in(daemon.stderr), "\n".join(daemon.stderr)
    assert not exceptions_in(avatar.lines[n_lines:])
    struck = faults_in(avatar.lines[n_lines:])
    for case in cases.values():
        assert {Fault.parse(text) for text in case.fault.split()} <= struck, f"{case.fault} has not struck"
    for name, case in cases.items():
        files = sorted(setting.recordings.glob(f"{name}-*.mp4"))
        if case.ends in ("live", "live again", "renewed", "slate"):
            assert len(files) == case.n_files, case.fault
        for path in files:
            assert recorded.n_pictures(path) == len(recorded.tracks(path)[0].packets), case.fault


class Scrapes:
    """The newest scrape of a daemon, for all who wait for something in it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._came = asyncio.Condition()
        self.newest = Metrics("")

    async def run(self) -> None:
        while True:
            metrics = await self._daemon.metrics()
            async with self._came:
                self.newest = metrics
                self._came.notify_all()
            await asyncio.sleep(0.25)

    async def until(self, claim: Callable[[Metrics], bool]) -> None:
        async with self._came:
            await self._came.wait_for(lambda: claim(self.newest))


@asynccontextmanager
async def scraping(daemon: Daemon) -> AsyncIterator[Scrapes]:
    scrapes = Scrapes(daemon)
    task = asyncio.create_task(scrapes.run())
    try:
        yield scrapes
    finally:
        task.cancel()
        await asyncio.wait({task})


async def ending(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> str:
    """Watch one session until it ends as the case says; what is wrong with it, if it does not."""
    try:
        async with asyncio.timeout(MUTE_S if "within" in case.words else PATIENCE_S):
            match case.ends:
                case "live":
                    await stays_live(daemon, scrapes, name, case)
                case "live again":
                    await comes_back(daemon, scrapes, name, case)
                case "renewed":
                    await is_renewed(daemon, scrapes, name, case)
                case "retrying":
                    await retries(daemon, scrapes, name, case)
                case "slate":
                    await stays_on_its_slate(daemon, scrapes, name, case)
                case "stopped":
                    await stops(daemon, scrapes, name, case)
    except (TimeoutError, AssertionError) as error:
        return f"{case.fault} is not {case.ends}: {str(error).partition(chr(10))[0] or 'not in time'}"
    return ""


async def stays_live(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    if case.offset == "late":
        await scrapes.until(lambda metrics: metrics.of(PICTURES, session=name) > 0)
        assert not scrapes.newest.has(OFFSET, session=name), "the offset is known before its time"
        await scrapes.until(lambda metrics: metrics.has(OFFSET, session=name))
    if case.logged:
        await daemon.logged(case.logged, session=name, **case.fields)
    await scrapes.until(lambda metrics: metrics.of(PICTURES, session=name) >= N_PICTURES)
    await scrapes.until(lambda metrics: has_moved(case, metrics, name))
    assert not case.unlogged or not daemon.events(case.unlogged, session=name), f"says {case.unlogged}"
    assert case.offset != "absent" or not scrapes.newest.has(OFFSET, session=name), "an offset without reports"
    assert scrapes.newest.of('session_state{state="live"}', session=name) == 1
    assert scrapes.newest.of("provider_reconnects_total", session=name) == 0, "it was connected anew"


async def comes_back(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    await scrapes.until(lambda metrics: has_moved(case, metrics, name))
    before = scrapes.newest.of(PICTURES, session=name)
    assert before > 0, "it was never live"

    def is_live(metrics: Metrics) -> bool:
        is_flowing = metrics.of(PICTURES, session=name) >= before + N_PICTURES_AGAIN
        return is_flowing and metrics.of('session_state{state="live"}', session=name) == 1

    await scrapes.until(is_live)
    told_of(case, daemon.events("avatar_lost", session=name))


async def is_renewed(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    await daemon.logged(case.logged, session=name, **case.fields)
    await scrapes.until(lambda metrics: has_moved(case, metrics, name))
    before = scrapes.newest.of(PICTURES, session=name)
    assert before > 0, "it was never live"
    await scrapes.until(lambda metrics: metrics.of(PICTURES, session=name) >= before + N_PICTURES_AGAIN)
    assert scrapes.newest.of("freezes_total", session=name) == 0, "viewers saw it"
    assert not daemon.events("avatar_lost", session=name), "it was lost"


async def retries(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    await daemon.logged("avatar_lost", 2, session=name, timeout_s=MUTE_S)
    await scrapes.until(lambda metrics: has_moved(case, metrics, name))
    told_of(case, daemon.events("avatar_lost", session=name))


async def stays_on_its_slate(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    told_of(case, [await daemon.logged("avatar_rejected", session=name)])
    await daemon.logged("on_air_slate", session=name, cause="avatar")
    before = scrapes.newest.of(WRITTEN, session=name)
    await scrapes.until(lambda metrics: metrics.of(SLATE_SECONDS, session=name) >= SLATE_S)
    await scrapes.until(lambda metrics: metrics.of(WRITTEN, session=name) > before)
    assert scrapes.newest.of("slate_active", session=name) == 1, "the slate is gone"
    assert scrapes.newest.of('session_state{state="failed"}', session=name) == 1
    assert scrapes.newest.of("provider_reconnects_total", session=name) == 0, "it was tried again"
    assert has_moved(case, scrapes.newest, name), f"{case.moved} did not move"
    assert not daemon.events("session_ended", session=name), "the broadcast has ended"


async def stops(daemon: Daemon, scrapes: Scrapes, name: str, case: Case) -> None:
    ended = await daemon.logged("session_ended", session=name)
    told_of(case, [ended])
    await scrapes.until(lambda metrics: metrics.of('session_state{state="failed"}', session=name) == 1)
    assert scrapes.newest.of("provider_reconnects_total", session=name) == 0, "it was tried again"
    assert has_moved(case, scrapes.newest, name), f"{case.moved} did not move"


def has_moved(case: Case, metrics: Metrics, name: str) -> bool:
    if case.moved == NOTHING:
        return True
    return metrics.of(case.moved, session=name) > case.beyond and all(
        metrics.of(series, session=name) > 0 for series in case.also
    )


def shown(case: Case, metrics: Metrics, name: str) -> str:
    """What tells of the fault, besides the service's log."""
    if case.moved != NOTHING:
        return f"{metrics.of(case.moved, session=name):7.4g}  {case.moved}"
    by_offset = f"{OFFSET} {case.offset}" if case.offset else ""
    by_files = f"{case.n_files} recordings" if case.n_files > 1 else ""
    by_log = case.logged or (case.unlogged and f"not {case.unlogged}")
    return f"         {by_offset or by_files or by_log or 'the log of the service alone'}"


def faults_in(lines: Iterable[str]) -> set[Fault]:
    """The faults that a service says have struck."""
    logged = [json.loads(line) for line in lines if '"event": "avatar_fault"' in line]
    return {
        Fault(event["fault"], choice=event["value"])
        if FAULTS[event["fault"]].choices
        else Fault(event["fault"], event["value"])
        for event in logged
    }


def one_sound(directory: Path) -> Path:
    """A second of sound: silence follows, and it is the avatar's turn."""
    path = directory / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes((b"\x00\x20" * 60 + b"\x00\xe0" * 60) * 200)
    return path


def told_of(case: Case, told: Iterable[dict[str, str]]) -> None:
    for event in told:
        assert case.words in event["error"], f"says {event['error']}"


def exceptions_in(lines: Iterable[str], session: str | None = None) -> int:
    """How many log lines show an exception, those of one session or all."""
    found = 0
    for line in lines:
        event = json.loads(line)
        is_meant = session is None or event.get("session") == session
        found += is_meant and ("exception" in event or "Traceback" in line)
    return found
