import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from bridge import reception as reception_module
from bridge import track_reception
from bridge.media.access_unit import AccessUnit, Codec, Kind
from bridge.media.clock import NS_PER_S
from bridge.media.rtp import RtpPacket
from bridge.ports import RemoteTrack, TrackSink
from bridge.reception import Reception
from tests.unit.receive.streams import H264_TYPE, OPUS_20_MS, OPUS_TYPE, SPS, Sender, opus_sender

INTERVAL_NS = 2 * NS_PER_S


class Feedback:
    def __init__(self) -> None:
        self.nacks: list[int] = []
        self.plis = 0

    def send_nack(self, sequence_numbers: Sequence[int]) -> None:
        self.nacks += sequence_numbers

    def send_pli(self) -> None:
        self.plis += 1


class Connection:
    """One avatar connection: both tracks, and what they were told."""

    def __init__(self, reception: Reception) -> None:
        self.feedback: dict[Kind, Feedback] = {"audio": Feedback(), "video": Feedback()}
        self.sinks: dict[Kind, TrackSink] = {}
        for kind, codecs in (("audio", {OPUS_TYPE: Codec.OPUS}), ("video", {H264_TYPE: Codec.H264})):
            track = RemoteTrack(kind, codecs, self.feedback[kind])  # type: ignore[arg-type, index]
            self.sinks[kind] = reception.on_track(track)  # type: ignore[index]

    def feed(self, kind: Kind, packets: Iterable[RtpPacket]) -> None:
        for packet in packets:
            self.sinks[kind].on_packet(packet)


PassMs = Callable[[float], Awaitable[None]]


@pytest.fixture
async def pass_ms(monkeypatch: pytest.MonkeyPatch) -> PassMs:
    """Lets time pass, for the event loop's timers too; it begins at 0."""
    loop = asyncio.get_running_loop()
    now_ns = 0

    async def pass_ms(duration_ms: float) -> None:
        nonlocal now_ns
        for _ in range(round(duration_ms / 10)):
            now_ns += 10_000_000
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(loop, "time", lambda: now_ns / NS_PER_S)
    for module in (reception_module, track_reception):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=lambda: now_ns))
    return pass_ms


@pytest.fixture
def units() -> list[AccessUnit]:
    return []


@pytest.fixture
def on_air_ns() -> dict[Kind, int]:
    """What went on air last: everything, in these tests."""
    return {}


@pytest.fixture
def reception(pass_ms: PassMs, units: list[AccessUnit], on_air_ns: dict[Kind, int]) -> Reception:
    def emit(unit: AccessUnit) -> None:
        on_air_ns[unit.codec.kind] = unit.pts_ns
        units.append(unit)

    return Reception(0, emit, on_air_ns, INTERVAL_NS)


async def test_both_tracks_are_emitted_on_one_session_time(reception: Reception, units: list[AccessUnit]) -> None:
    connection = Connection(reception)
    video, audio = Sender(), opus_sender()
    for _ in range(3):
        connection.feed("video", video.keyframe())
        connection.feed("audio", [*audio.unit([OPUS_20_MS]), *audio.unit([OPUS_20_MS])])
    assert [unit.codec.kind for unit in units] == ["video", "audio", "audio"] * 3
    for kind, step_ns in (("video", 40_000_000), ("audio", 20_000_000)):
        times_ns = [unit.pts_ns for unit in units if unit.codec.kind == kind]
        assert all(later - earlier == step_ns for earlier, later in pairwise(times_ns))
    reception.close()


async def test_a_sender_that_shows_nothing_is_asked_for_a_keyframe(reception: Reception, pass_ms: PassMs) -> None:
    connection = Connection(reception)
    await pass_ms(1000)
    assert connection.feedback["video"].plis == 0  # nobody is there to be asked
    connection.feed("video", Sender(at_ms=1000).unit([SPS], marked=False))
    await pass_ms(250)
    assert connection.feedback["video"].plis == 0
    await pass_ms(100)
    assert connection.feedback["video"].plis == 1
    assert reception.keyframe_requests == {"start": 1}
    assert connection.feedback["audio"].plis == 0
    reception.close()


async def test_keyframes_are_asked_for_at_the_interval(reception: Reception, pass_ms: PassMs) -> None:
    connection = Connection(reception)
    video = Sender()
    connection.feed("video", video.keyframe())
    for _ in range(51):
        await pass_ms(40)
        connection.feed("video", video.picture())
    assert reception.keyframe_requests == {"periodic": 1}
    reception.close()


async def test_a_keyframe_that_an_output_wants_is_asked_for_at_once(reception: Reception, pass_ms: PassMs) -> None:
    connection = Connection(reception)
    connection.feed("video", Sender().keyframe())
    await pass_ms(10)
    reception.request_keyframe()
    assert reception.keyframe_requests == {"demand": 1}
    assert connection.feedback["video"].plis == 1
    reception.close()


async def test_without_a_connection_nobody_is_asked(reception: Reception) -> None:
    reception.request_keyframe()
    assert not reception.keyframe_requests
    assert reception.stats("video") is None


async def test_a_lost_packet_is_asked_for_again(reception: Reception, pass_ms: PassMs) -> None:
    connection = Connection(reception)
    video = Sender()
    connection.feed("video", video.keyframe())
    lost, *others = video.picture()
    await pass_ms(40)
    connection.feed("video", others)
    await pass_ms(60)
    assert lost.sequence_number in connection.feedback["video"].nacks
    assert reception.nacks == len(connection.feedback["video"].nacks)
    reception.close()


async def test_requests_that_are_ignored_are_told_of_once(reception: Reception, pass_ms: PassMs) -> None:
    connection = Connection(reception)
    video = Sender()
    connection.feed("video", video.unit([SPS], marked=False))
    with capture_logs() as logged:
        await pass_ms(5_000)
    assert [entry["event"] for entry in logged] == ["keyframe_requests_ignored"]
    assert reception.ignores_keyframe_requests
    connection.feed("video", video.keyframe())
    assert not reception.ignores_keyframe_requests
    reception.close()


async def test_a_closed_connection_is_asked_for_nothing_and_heard_no_more(
    reception: Reception, units: list[AccessUnit], pass_ms: PassMs
) -> None:
    connection = Connection(reception)
    connection.feed("video", Sender().keyframe())
    assert reception.heard_ns is not None
    reception.close()
    await pass_ms(5_000)
    connection.feed("video", Sender(sequence_number=1003, at_ms=5_000).keyframe())
    assert connection.feedback["video"].plis == 0
    assert len(units) == 1
    assert reception.heard_ns is None
    assert reception.stats("video") is None


async def test_the_next_connection_goes_on_behind_what_was_emitted(
    reception: Reception, units: list[AccessUnit], pass_ms: PassMs
) -> None:
    first = Connection(reception)
    video = Sender()
    first.feed("video", [*video.keyframe(), *video.pictures(25)])
    last_ns = units[-1].pts_ns
    await pass_ms(100)  # although the sender was far ahead of the clock
    # Nobody said that the first is over: a track that comes a second time says so.
    second = Connection(reception)
    second.feed("video", Sender(sequence_number=7, timestamp=9, ssrc=77, at_ms=100).keyframe())
    first.feed("video", video.picture())
    assert len(units) == 27
    assert units[-1].is_keyframe
    assert units[-1].pts_ns > last_ns
    reception.close()


@pytest.mark.parametrize("drift_ms", [-900, 900])
async def test_the_next_connection_goes_on_where_the_senders_clock_had_led(
    reception: Reception, units: list[AccessUnit], pass_ms: PassMs, drift_ms: int
) -> None:
    """Half a minute, with the drift of an hour in one step."""
    connection = Connection(reception)
    audio = opus_sender()
    for index in range(1500):
        connection.feed("audio", audio.unit([OPUS_20_MS]))
        await pass_ms(20)
        audio.at_ms += drift_ms if index == 600 else 0
    before = units[-1]
    assert abs(audio.at_ms - 20 - before.pts_ns / 1e6 - drift_ms) < 1
    successor = Connection(Reception(reception.origin_ns, reception.emit, {}))
    successor.feed("audio", opus_sender(ssrc=7, at_ms=audio.at_ms).unit([OPUS_20_MS]))
    again = Connection(reception)  # a further media connection of the same session
    again.feed("audio", opus_sender(ssrc=8, at_ms=audio.at_ms).unit([OPUS_20_MS]))
    for unit in units[-2:]:
        assert 0 <= (unit.pts_ns - before.pts_ns) / 1e6 - 20 < 25
    reception.close()


async def test_sound_of_a_sender_that_begins_anew_is_no_continuation_of_what_was_emitted(
    reception: Reception, units: list[AccessUnit]
) -> None:
    connection = Connection(reception)
    connection.feed("audio", opus_sender(ssrc=7).unit([OPUS_20_MS]))
    again = opus_sender(ssrc=8, at_ms=20)
    for _ in range(2):
        connection.feed("audio", again.unit([OPUS_20_MS]))
    assert [unit.is_discontinuity for unit in units] == [False, True, False]
    assert not any(unit.lost_ns for unit in units)
    reception.close()


async def test_what_was_set_right_is_counted_over_all_connections(reception: Reception) -> None:
    for ssrc in (7, 8):
        connection = Connection(reception)
        audio = opus_sender(ssrc=ssrc)
        connection.feed("audio", audio.unit([OPUS_20_MS]))
        audio.timestamp -= 960
        connection.feed("audio", audio.unit([OPUS_20_MS]))
    assert reception.nudged_units == 2
    assert reception.rejected_reports == 0 and reception.av_drift_ppm is None
    reception.close()
