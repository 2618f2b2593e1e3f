"""The main job with every process that takes part in it: a file of speech in, RTMP and a recording out."""

from pathlib import Path

from tests.e2e import recorded
from tests.e2e.processes import SPEECH, STREAM_KEY, Avatar, Setting, Show
from tests.interop.nginx_rtmp import NginxRtmp


async def test_speech_becomes_a_broadcast_and_a_recording(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path, show: Show
) -> None:
    setting = Setting(tmp_path, avatar.url).input(SPEECH)
    recording = setting.recording()
    setting.rtmp("live", nginx.rtmp_url)
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(6.8 * 25, "added_latency_seconds_count", output="live")
        metrics = await daemon.metrics()
        assert await daemon.get("/readyz") == "ready\n"
        assert await daemon.stop(timeout_s=7) == 0
    broadcast = nginx.finished_recording(STREAM_KEY)

    assert metrics.total("output_state", output="live", state="publishing") == 1
    assert metrics.total("output_state", output="archive", state="publishing") == 1
    assert metrics.total("session_state", state="live") == 1
    assert metrics.total("output_bytes_total", output="live") > 50_000
    assert abs(metrics.total("av_offset_seconds")) < 0.04
    # Half of the pictures are through in 20 ms even on a machine that is busy with other tests.
    in_time = metrics.total("added_latency_seconds_bucket", output="live", le="0.02")
    assert in_time > metrics.total("added_latency_seconds_count", output="live") / 2

    # The avatar stamps its pictures: nearly all are told by the clock of the first reports.
    glass = {"output": "live", "basis": "capture"}
    n_glass = metrics.total("glass_to_glass_seconds_count", **glass)
    assert 5 * 25 < n_glass == metrics.total("glass_to_glass_seconds_count", output="live")
    show(f"glass to glass: {1000 * metrics.total('glass_to_glass_seconds_sum', **glass) / n_glass:.1f} ms on average")
    assert metrics.total("glass_to_glass_seconds_bucket", le="0.4", **glass) > n_glass / 2

    spoken = recorded.sound(SPEECH)[: 4 * recorded.SPEECH_RATE_HZ]
    for path in (recording, broadcast):
        picture, sound = recorded.tracks(path)
        assert (picture.codec, sound.codec) == ("h264", "aac")
        assert len(picture.packets) > 6 * 25
        assert recorded.n_pictures(path) == len(picture.packets)
        assert abs(picture.start_s - sound.start_s) < 0.1
        assert abs(picture.end_s - sound.end_s) < 0.2
        heard = recorded.sound(path)
        assert recorded.likeness(heard, spoken) > 0.8
        assert abs(recorded.rms_dbfs(heard[: len(spoken)]) - recorded.rms_dbfs(spoken)) < 2

    spacings_s = recorded.tracks(broadcast)[0].keyframe_spacings_s
    show(f"keyframe spacing on RTMP: {', '.join(f'{spacing_s:.2f}' for spacing_s in spacings_s)} s")
    if spacings_s[0] < 0.5:
        del spacings_s[0]  # the server accepted just as a keyframe was on its way, and so asked for another one
    assert len(spacings_s) >= 3
    assert all(abs(spacing_s - 2.0) <= 0.2 for spacing_s in spacings_s)

    # Untouched: what two muxers got is what the avatar coded, to the bit.
    shown, kept = ([packet.payload for packet in recorded.tracks(path)[0].packets] for path in (broadcast, recording))
    first = kept.index(shown[0]) if shown[0] in kept else 0
    earlier = shown.index(kept[first])
    n_common = min(len(kept) - first, len(shown) - earlier)
    assert n_common > 5 * 25
    assert kept[first : first + n_common] == shown[earlier : earlier + n_common]
