from dataclasses import replace

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.status import MediaStatus, SessionState, SessionStatus
from bridge.timeline.splice import OnAir
from bridge.trend import Trend

MEDIA = MediaStatus(
    fps=30.0,
    video_bps=2.5e6,
    av_offset_s=None,
    added_latency_s=0.0004,
    added_latency_p95_s=None,
    added_latency_p99_s=0.0012345678,
    n_pictures=1,
    n_lost_packets=0,
    first_picture_s=None,
    ignores_keyframe_requests=False,
    concealment=None,
    concealed_s=0.0,
    restored_s=0.0,
)
STATUS = SessionStatus(
    name="leo",
    state=SessionState.LIVE,
    error="",
    on_air=OnAir.LIVE,
    capabilities=frozenset(),
    media=MEDIA,
    spoken_s=0.0,
    input_is_finished=False,
    outputs=(),
    freezes=2,
)


class Clock:
    now_ns = 7 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns


def test_a_point_is_what_the_status_says_and_what_is_not_known_stays_so() -> None:
    clock = Clock()
    trend = Trend(clock)
    trend.look(lambda: STATUS)
    clock.now_ns += 2 * NS_PER_S
    trend.look(lambda: replace(STATUS, media=replace(MEDIA, av_offset_s=-0.002), freezes=3))
    clock.now_ns += 500 * NS_PER_MS
    assert trend.columns() == {
        "age_s": [2.5, 0.5],
        "added_latency_p99_s": [0.001235, 0.001235],
        "av_offset_s": [None, -0.002],
        "video_bps": [2.5e6, 2.5e6],
        "fps": [30.0, 30.0],
        "freezes": [2.0, 3.0],
        "queue_s": [0.0, 0.0],
    }


def test_of_a_look_every_second_ten_minutes_are_kept_at_every_other() -> None:
    clock, looks = Clock(), list[int]()

    def status() -> SessionStatus:
        looks.append(clock.now_ns)
        return STATUS

    trend = Trend(clock)
    for _ in range(3600):
        trend.look(status)
        clock.now_ns += 1_001 * NS_PER_MS  # a loop that sleeps a second is always a little late
    ages_s = trend.columns()["age_s"]
    assert len(looks) == 1800
    assert len(ages_s) == 300 and 598 < (ages_s[0] or 0) < 603
