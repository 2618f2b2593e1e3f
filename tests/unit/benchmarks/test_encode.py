"""How constant a bit rate is, told from sizes and times."""

import pytest

from benchmarks import encode
from benchmarks.encode import BITS_PER_S, Case, Coded, rate_error_pct

PICTURE_BYTES = BITS_PER_S // 8 // 30


def test_a_constant_rate_has_no_error_and_one_large_picture_counts_in_each_window_that_holds_it() -> None:
    even = [Coded(round(n / 30, 3), PICTURE_BYTES, is_keyframe=n % 60 == 0) for n in range(300)]
    assert rate_error_pct(even, 2.0) == pytest.approx(0, abs=0.1)
    large = [picture._replace(n_bytes=16 * PICTURE_BYTES) if n == 150 else picture for n, picture in enumerate(even)]
    assert rate_error_pct(large, 1.0) == pytest.approx(50, abs=0.1)
    assert rate_error_pct(large, 2.0) == pytest.approx(25, abs=0.1)


def test_what_is_shorter_than_a_window_tells_nothing() -> None:
    assert rate_error_pct([Coded(0.0, 1, is_keyframe=True)], 1.0) is None


@pytest.mark.parametrize(("extra", "bound"), [(None, "≤ 0"), (150, "≤ 0  NOT KEPT")])
def test_a_keyframe_that_comes_too_early_is_no_exact_distance(
    extra: int | None, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [Coded(round(n / 30, 3), PICTURE_BYTES, is_keyframe=n % 60 == 0 or n == extra) for n in range(400)]
    status = {"added_latency_s": 0.01, "added_latency_p95_s": 0.02}
    monkeypatch.setattr(encode, "why_unavailable", lambda: None)
    monkeypatch.setattr(encode, "_run", lambda **options: Case([0.3], status, pictures))
    rows = {name: (value, shown) for name, value, shown in encode.measure().rows()}
    # What users are told that it measures.
    assert {"cpu_core", "keyframe_spacing_s", "bitrate_error_2s_pct", "added_latency_p95_ms"} <= set(rows)
    assert rows["keyframe_spacing_s"] == ("2", "≤ 2")
    assert rows["keyframe_error_ms"] == ("1000" if extra else "0", bound)
