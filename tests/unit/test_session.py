import asyncio
import operator
import time
import wave
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from bridge import connection as connection_module
from bridge.config import OutputConfig, ToolConfig
from bridge.errors import (
    ConfigError,
    OutputRejected,
    ProviderRejected,
    ProviderUnavailable,
    RemoteProtocolError,
    SourceRejected,
)
from bridge.inputs.file import FileSource
from bridge.media.access_unit import Codec
from bridge.media.live_queue import LiveQueue
from bridge.ports import AvatarEvent, AvatarListener, OutputListener, RemoteTrack, ToolCall
from bridge.redact import Secret
from bridge.status import SessionState
from bridge.timeline.splice import OnAir
from tests.unit.outputs.fakes import FakeOutput
from tests.unit.receive.streams import OPUS_20_MS, OPUS_TYPE, Sender, opus_sender
from tests.unit.stage import (
    FakeProvider,
    FakeSlateMaker,
    FakeSource,
    NoFeedback,
    Service,
    Stage,
    ended,
    refusing,
    saying,
    show,
    stay_mute,
    until,
)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


async def test_media_flows_from_the_avatar_to_the_output(stage: Stage) -> None:
    session, provider = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 4)
    await until(lambda: provider.link.n_sent)
    assert session.state is SessionState.LIVE
    assert session.has_been_live
    status = session.status()
    assert status.media.n_pictures >= 4
    assert [output.state for output in status.outputs] == ["publishing"]
    await session.drain(within_s=5.0)
    await ended(running)


async def test_a_drain_ends_the_utterance_then_the_avatar_and_the_outputs(stage: Stage) -> None:
    session, provider = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    await session.drain(within_s=10.0)
    # 0.3 s of speech and 0.1 s of silence in messages of 64 ms.
    assert provider.link.n_sent >= 6
    assert session.status().spoken_s >= 0.3
    await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]
    assert session.state is SessionState.CLOSED
    assert not stage.outputs[0].was_cancelled


async def test_a_drain_waits_for_the_answer_in_a_conversation(stage: Stage) -> None:
    session, provider = stage.session(show, role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    provider.listener.on_event(AvatarEvent("speech_stopped", "realtime.input_audio_buffer.speech_stopped"))
    draining = asyncio.create_task(session.drain(within_s=60.0))
    await until(lambda: session.status().input_is_finished)
    provider.listener.on_event(AvatarEvent("response_started", "realtime.response.audio.delta"))
    await asyncio.sleep(0.02)
    assert not draining.done()
    provider.listener.on_event(AvatarEvent("response_done", "realtime.response.audio.done", sound_s=0.1))
    await asyncio.sleep(0.02)
    assert not draining.done()  # it is generated, and still being said
    await ended(draining)
    await ended(running)


async def test_a_drain_does_not_wait_for_the_answer_of_an_avatar_that_goes_away(stage: Stage) -> None:
    gone = asyncio.Event()

    async def leave(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        await gone.wait()
        showing.cancel()
        raise ProviderUnavailable("away")

    session, provider = stage.session(leave, role="conversation", first_retry_s=15.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    provider.listener.on_event(AvatarEvent("speech_stopped", "realtime.input_audio_buffer.speech_stopped"))
    draining = asyncio.create_task(session.drain(within_s=60.0))
    await until(lambda: session.status().input_is_finished)
    gone.set()
    await ended(draining)
    await ended(running)


async def test_until_there_is_a_track_silence_is_the_provider_s_to_judge(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def shake_hands_slowly(provider: FakeProvider, listener: AvatarListener) -> None:
        await asyncio.sleep(0.1)
        await show(provider, listener)

    monkeypatch.setattr(connection_module, "MEDIA_LOST_S", 0.02)
    session, provider = stage.session(shake_hands_slowly)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    assert provider.n_connections == 1
    await session.drain(within_s=0.0)
    await ended(running)


async def send_vp8(provider: FakeProvider, listener: AvatarListener) -> None:
    """A VP8 keyframe every 5 ms (RFC 7741 §4.2, RFC 6386 §9.1)."""
    sink = listener.on_track(RemoteTrack("video", {98: Codec.VP8}, NoFeedback()))
    listener.on_ready(provider.link)
    video = Sender(unit_ms=5, payload_type=98, at_ms=time.monotonic() * 1000)
    while True:
        for packet in video.unit([b"\x10\x10\x02\x00\x9d\x01\x2a\xa0\x00\x78\x00picture"]):
            sink.on_packet(packet)
        await asyncio.sleep(0.005)


async def only_speak(provider: FakeProvider, listener: AvatarListener) -> None:
    """Sound, and no track of pictures."""
    sink = listener.on_track(RemoteTrack("audio", {OPUS_TYPE: Codec.OPUS}, NoFeedback()))
    listener.on_ready(provider.link)
    sound = opus_sender(at_ms=round(time.monotonic() * 1000))
    while True:
        for packet in sound.unit([OPUS_20_MS]):
            sink.on_packet(packet)
        await asyncio.sleep(0.02)


async def test_an_avatar_without_pictures_is_spoken_to_and_heard_over_the_slate(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "NO_PICTURES_S", 0.05)
    session, provider = stage.session(only_speak)
    running = asyncio.create_task(session.run())
    await until(lambda: session.status().slate_cause == "no_video")
    await until(lambda: provider.link.n_sent)
    await until(lambda: len(stage.outputs[0].written) > 20)
    status = session.status()
    assert (status.state, status.on_air) == (SessionState.LIVE, OnAir.SLATE)
    words = "offers no pictures that can be received (H.264, VP8): viewers hear it, and see the slate"
    assert status.error.endswith(words) and provider.n_connections == 1
    written = stage.outputs[0].written
    assert {unit.payload for unit in written if unit.codec.kind == "video"} == {b"slate idr", b"slate p"}
    await until(lambda: any(unit.payload == OPUS_20_MS for unit in written))
    await session.drain(within_s=0.0)
    await ended(running)


async def test_an_output_that_only_copies_shows_the_slate_while_the_avatar_is_live_in_vp8(stage: Stage) -> None:
    session, _ = stage.session(send_vp8, video="copy")
    running = asyncio.create_task(session.run())
    await until(lambda: stage.outputs and len(stage.outputs[0].written) > 20)
    status = session.status()
    assert (status.state, status.on_air, status.error) == (SessionState.LIVE, OnAir.LIVE, "")
    (output,) = status.outputs
    assert (output.mode, output.mode_reason) == ("slate", "codec")
    assert {unit.payload for unit in stage.outputs[0].written} == {b"slate idr", b"slate p"}
    assert session._avatar.keyframe_interval_ns is None, "nobody sees the avatar's"
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_drain_without_time_ends_at_once(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    await session.drain(within_s=0.0)
    await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderUnavailable("away"), "unavailable"),
        (ProviderUnavailable("full", reason="gpu_full"), "gpu_full"),
        (RemoteProtocolError("nonsense"), "protocol"),
    ],
)
async def test_an_avatar_that_goes_away_is_reconnected_and_outputs_stay(
    error: Exception, reason: str, stage: Stage
) -> None:
    async def leave(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        await asyncio.sleep(0.03)
        showing.cancel()
        raise error

    session, provider = stage.session(leave, show)
    running = asyncio.create_task(session.run())
    with capture_logs() as logged:
        await until(lambda: session.has_been_live and provider.n_connections == 2)
        n_written = len(stage.outputs[0].written)
        await until(lambda: len(stage.outputs[0].written) > n_written)
    lost = [entry for entry in logged if entry["event"] == "avatar_lost"]
    assert [entry["error"] for entry in lost] == [str(error)]
    assert len(stage.outputs) == 1
    times_ns = [unit.pts_ns for unit in stage.outputs[0].written]
    assert times_ns == sorted(set(times_ns))
    labels = {"session": "leo", "service": "navtalk", "reason": reason}
    assert stage.registry.get_sample_value("avatar_bridge_provider_reconnects_total", labels) == 1
    await session.drain(within_s=0.0)
    await ended(running)


async def test_an_avatar_that_sends_nothing_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MEDIA_LOST_S", 0.02)
    session, provider = stage.session(stay_mute)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 2)
    assert "no media" in session.status().error
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_drain_does_not_wait_for_an_avatar_that_is_away(stage: Stage) -> None:
    session, provider = stage.session(refusing(ProviderUnavailable("away")), first_retry_s=15.0)
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.RECONNECTING)
    await session.drain(within_s=10.0)
    await ended(running)
    assert provider.n_connections == 1
    assert session.state is SessionState.CLOSED


@pytest.mark.parametrize(
    ("source", "service", "error"),
    [
        (None, refusing(ProviderRejected("a wrong licence")), ProviderRejected),
        (FakeSource(SourceRejected("no such file")), show, SourceRejected),
    ],
)
async def test_what_only_an_operator_can_change_ends_the_session_with_its_outputs_closed(
    source: FakeSource | None, service: Service, error: type[Exception], stage: Stage
) -> None:
    session, _ = stage.session(service, source=source)
    running = asyncio.create_task(session.run())
    with pytest.raises(error):
        await ended(running)
    assert session.state is SessionState.FAILED
    assert session.status().error
    assert "output closed" in stage.story
    assert stage.outputs[0].was_cancelled or not stage.outputs[0].written


async def test_a_session_without_an_output_left_fails(stage: Stage) -> None:
    async def refuse(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        raise OutputRejected("a wrong stream key")

    session, _ = stage.session(show, output=refuse)
    with pytest.raises(OutputRejected, match="no output is left: a wrong stream key"):
        await ended(asyncio.create_task(session.run()))
    assert session.status().outputs[0].state == "rejected"
    assert session.state is SessionState.FAILED
    assert not session.has_been_on_air


async def test_a_bug_in_an_output_is_raised_for_the_daemon_to_see(stage: Stage) -> None:
    async def crash(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        raise ZeroDivisionError

    session, _ = stage.session(show, output=crash)
    with pytest.raises(ExceptionGroup) as caught:
        await ended(asyncio.create_task(session.run()))
    assert caught.group_contains(ZeroDivisionError)
    assert session.state is SessionState.FAILED


async def test_a_cancelled_session_closes_everything(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]
    assert session.state is SessionState.CLOSED


async def test_a_warning_about_an_input_names_its_session(stage: Stage, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(bytes(48_000))
    session, _ = stage.session(show, source=FileSource("speech", silent))  # type: ignore[arg-type]
    running = asyncio.create_task(session.run())
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        await until(lambda: any(entry["event"] == "input_silent" for entry in logged))
    await session.drain(within_s=0.0)
    await ended(running)
    (warning,) = [entry for entry in logged if entry["event"] == "input_silent"]
    assert warning["session"] == "leo"


async def test_what_was_said_is_kept_in_the_file_and_for_the_next_connection(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"role": "user", "content": "yesterday"}\n')
    turn = (AvatarEvent("user_transcript", "t", "hello"), AvatarEvent("avatar_transcript", "t", "good day"))
    session, provider = stage.session(saying(*turn), role="conversation", history_file=path)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.history == ["yesterday", "hello"])
    await until(lambda: "good day" in path.read_text())
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_file_that_holds_no_history_ends_the_session_before_anything_is_opened(
    stage: Stage, tmp_path: Path
) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("Dear diary\n")
    session, provider = stage.session(show, role="conversation", history_file=path)
    with pytest.raises(ConfigError, match="line 1"):
        await ended(asyncio.create_task(session.run()))
    assert provider.n_connections == 0 and session.state is SessionState.FAILED
    assert "line 1" in session.status().error


async def test_a_tool_call_that_nobody_answers_gets_its_default(stage: Stage) -> None:
    async def ask(provider: FakeProvider, listener: AvatarListener) -> None:
        listener.on_ready(provider.link)
        listener.on_tool_call(ToolCall("call_1", "opening_hours", "{}"))
        await asyncio.Event().wait()

    tools = (ToolConfig(name="opening_hours", default="from nine to five"),)
    session, provider = stage.session(ask, role="conversation", tools=tools, tool_deadline_s=0.01)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.tool_answers)
    assert provider.link.tool_answers == [("call_1", "from nine to five")]
    labels = {"session": "leo", "result": "default"}
    await until(lambda: stage.registry.get_sample_value("avatar_bridge_tool_calls_total", labels) == 1)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_mirror_that_hears_somebody_else_is_interrupted(stage: Stage) -> None:
    session, provider = stage.session(saying(AvatarEvent("speech_started", "t")), role="speak")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_interrupts)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_the_speech_that_a_service_has_heard_goes_on(stage: Stage) -> None:
    session, provider = stage.session(saying(AvatarEvent("speech_started", "t")), role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: session.status().input_is_finished)
    assert session.status().spoken_s == pytest.approx(0.3, abs=0.1)
    assert not provider.link.n_interrupts
    await session.drain(within_s=0.0)
    await ended(running)


async def test_the_status_lists_what_the_service_can_do(stage: Stage) -> None:
    session, _ = stage.session(show)
    assert session.status().capabilities == {"history", "tools"}


# ---------------------------------------------------------------------------------------------- outputs by hand


def file_output(name: str = "more.mp4") -> OutputConfig:
    return OutputConfig(url=Secret.url(f"file:{name}"))


async def test_an_output_is_added_replaced_stopped_started_and_removed_while_live(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 4)

    await session.distribution.add("more", file_output())
    await until(lambda: len(stage.outputs[-1].written) >= 2)
    assert [output.name for output in session.status().outputs] == ["archive", "more"]
    replaced = stage.outputs[-1]
    await session.distribution.add("more", file_output("other.mp4"))
    await until(lambda: stage.outputs[-1] is not replaced and len(stage.outputs[-1].written) >= 2)
    assert [output.name for output in session.status().outputs] == ["archive", "more"]

    await session.stop_output("more")
    assert session.status().outputs[1].state == "stopped"
    await session.start_output("more")
    await until(lambda: session.status().outputs[1].state == "publishing")
    await session.restart_output("more")
    await until(lambda: session.status().outputs[1].state == "publishing")

    await session.distribution.remove("more")
    assert [output.name for output in session.status().outputs] == ["archive"]
    await session.drain(within_s=5.0)
    await ended(running)


async def test_outputs_that_are_changed_at_the_same_time_are_changed_one_after_the_other(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 2)
    await asyncio.gather(*(session.distribution.add("more", file_output(f"{n}.mp4")) for n in range(5)))
    assert [output.name for output in session.status().outputs] == ["archive", "more"]
    await session.drain(within_s=5.0)
    await ended(running)


@pytest.mark.parametrize("verb", ["start_output", "stop_output", "restart_output", "distribution.remove"])
async def test_an_output_that_there_is_not_cannot_be_handled(stage: Stage, verb: str) -> None:
    session, _ = stage.session(show)
    with pytest.raises(ConfigError, match="there is no output nobody"):
        await operator.attrgetter(verb)(session)("nobody")


async def test_the_status_says_what_the_hand_has_done(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 2)
    session.mute(True)
    session.show_slate(True, "break")
    assert (session.status().is_muted, session.status().slate_reason) == (True, "break")
    session.mute(False)
    session.show_slate(False)
    assert (session.status().is_muted, session.status().slate_reason) == (False, "")
    await session.drain(within_s=5.0)
    await ended(running)


async def test_a_slate_that_cannot_be_shown_ends_the_session_before_anything_is_opened(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(maker: FakeSlateMaker) -> None:
        raise ConfigError("slate.image: no such file")

    monkeypatch.setattr(FakeSlateMaker, "check", refuse)
    session, provider = stage.session(show)
    with pytest.raises(ConfigError, match=r"slate\.image"):
        await ended(asyncio.create_task(session.run()))
    assert provider.n_connections == 0
