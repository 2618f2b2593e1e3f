"""The resampler against soxr HQ, libsamplerate and libswresample: speed, quality and delay, with int16 at both ends.

speed_ratio_RATE   CPU of soxr HQ for the equal job, by ours, in chunks of 20 ms; above 1 ours is faster. The same for
                   libsamplerate (medium) and libswresample (as it comes, through PyAV).
cpu_us_per_s_RATE  ours, per second of sound.
delay_ms_RATE      most that is held back at any time, fed a millisecond at a time: input taken less output given.
rejection_db_RATE  the strongest alias of a tone beyond 12 kHz, or image of one that is not.
ripple_db_RATE     the largest deviation from 0 dB up to 10.8 kHz; below 24 kHz of input, so much less as that is lower.
snr_db_RATE        noise beside a tone of 997 Hz at -1 dBFS, below full scale (AES17). The input's own rounding counts.
front_end_core     all that a live input goes through, 48 kHz stereo in chunks of 20 ms, as a part of one core; full is
                   with all that is off by default.
follow_core        a live source followed by its clock, 48 kHz mono.
"""

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.front_end import front_end_core, front_end_full_core
from benchmarks.processes import ending_properly
from benchmarks.report import Figure, Findings, median
from benchmarks.resamplers import PEERS, RATE_OUT_HZ, Push, ours, soxr_hq_int16
from bridge.dsp.follow import FollowingResampler

RATES_HZ = (8_000, 16_000, 32_000, 44_100, 48_000)
FAST_RATES_HZ = (96_000, 192_000)
STUDIO_RATES_HZ = (44_100, 48_000)

CHUNKS_PER_S = 50
# Chunks that are timed together, and how often all engines take turns: one round passes in the same state of the
# machine, and the median ignores the rounds that something else disturbed.
N_CHUNKS, N_ROUNDS = 50, 60
# Not timed: they find the caches full of the engine before.
N_WARM_UP_CHUNKS = 10

# Tones repeat after this time, at both rates; one second before lets all filters fill.
PERIOD_S, FILL_S = 2, 1
FULL_SCALE = 32_768
# One at a time: rounding to int16 makes images of its own, 120 dB below full scale, whatever the level of the tone.
N_STOPBAND_TONES = 32
# Steps of this share of a band never meet the same place twice: the errors of tones in simple ratios to the rate repeat
# with them, and would be tones themselves.
GOLDEN = (5**0.5 - 1) / 2
N_PASSBAND_TONES = 50
PASSBAND_HZ, STOPBAND_HZ = 10_800, 12_000

TITLE = "resample: to 24 kHz mono int16, chunks of 20 ms"
AT_LEAST = {
    **{f"speed_ratio_{rate_hz}": 0.8 for rate_hz in RATES_HZ},
    **{f"rejection_db_{rate_hz}": 105.0 for rate_hz in (*RATES_HZ, *FAST_RATES_HZ)},
    **{f"snr_db_{rate_hz}": 96.0 for rate_hz in STUDIO_RATES_HZ},
}
AT_MOST = {
    **{f"cpu_us_per_s_{rate_hz}": 750.0 for rate_hz in RATES_HZ},
    **{f"ripple_db_{rate_hz}": 0.005 for rate_hz in (*RATES_HZ, *FAST_RATES_HZ)},
    "delay_ms_8000": 8.0,
    "delay_ms_16000": 4.0,
    **{f"delay_ms_{rate_hz}": 2.6 for rate_hz in STUDIO_RATES_HZ},
    "front_end_core": 0.0015,
}


def measure() -> Findings:
    figures: dict[str, Figure] = {}
    for rate_hz in (*RATES_HZ, *FAST_RATES_HZ):
        figures |= _speed(rate_hz)
    for rate_hz in (*RATES_HZ, *FAST_RATES_HZ):
        figures |= _quality("", ours, rate_hz)
    for rate_hz in STUDIO_RATES_HZ:
        for name, engine in PEERS.items():
            figures |= _quality(f"{name}_", engine, rate_hz)
    for rate_hz in (8_000, 16_000):
        figures[f"soxr_delay_ms_{rate_hz}"] = _delay_ms(PEERS["soxr"](rate_hz), rate_hz)
    figures |= {"front_end_core": front_end_core(), "front_end_full_core": front_end_full_core()}
    figures["follow_core"] = _follow_core()
    return Findings(
        title=TITLE,
        figures=figures,
        at_most=AT_MOST,
        at_least=AT_LEAST,
        notes=[
            f"Speed: CPU time, median of {N_ROUNDS} rounds in which all engines take turns. plain: soxr's own int16, "
            "whose noise depends on the chunking.",
            f"Tones: {PERIOD_S} s, with dither; what is weaker than -118 dB is noise.",
            f"BLAS: the kernels that OpenBLAS takes for {os.environ.get('OPENBLAS_CORETYPE', 'this processor')}.",
        ],
    )


# ---------------------------------------------------------------------------------------------- speed


def _speed(rate_hz: int) -> dict[str, Figure]:
    samples = np.random.default_rng(rate_hz).integers(-20_000, 20_000, rate_hz // CHUNKS_PER_S, dtype=np.int16)
    engines = {"ours": ours, "plain": soxr_hq_int16, **PEERS}
    pushes = {name: engine(rate_hz) for name, engine in engines.items()}
    rounds = [{name: _chunk_us(push, samples) for name, push in pushes.items()} for _ in range(N_ROUNDS)]

    def ratio(name: str) -> Figure:
        return median([times[name] / times["ours"] for times in rounds])

    figures = {f"speed_ratio_{rate_hz}": ratio("soxr")}
    figures |= {f"{name}_speed_ratio_{rate_hz}": ratio(name) for name in ("plain", "libsamplerate", "libswresample")}
    figures[f"cpu_us_per_s_{rate_hz}"] = CHUNKS_PER_S * (median([times["ours"] for times in rounds]) or 0.0)
    return figures


def _chunk_us(push: Callable[..., object], *arguments: object) -> float:
    for _ in range(N_WARM_UP_CHUNKS):
        push(*arguments)
    began_ns = time.process_time_ns()
    for _ in range(N_CHUNKS):
        push(*arguments)
    return (time.process_time_ns() - began_ns) / N_CHUNKS / 1_000


def _follow_core() -> Figure:
    resampler = FollowingResampler(48_000, 1, target_s=0.05)
    samples = np.random.default_rng(1).integers(-20_000, 20_000, (960, 1), dtype=np.int16)
    return _core(resampler.push, samples, 0.051)


def _core(push: Callable[..., object], *arguments: object) -> Figure:
    """CPU for chunks of 20 ms as a part of one core."""
    chunk_us = median([_chunk_us(push, *arguments) for _ in range(N_ROUNDS)]) or 0.0
    return chunk_us * CHUNKS_PER_S / 1e6


# ---------------------------------------------------------------------------------------------- quality


def _quality(prefix: str, engine: Callable[[int], Push], rate_hz: int) -> dict[str, Figure]:
    return {
        f"{prefix}delay_ms_{rate_hz}": _delay_ms(engine(rate_hz), rate_hz),
        f"{prefix}rejection_db_{rate_hz}": _rejection_db(engine, rate_hz),
        f"{prefix}ripple_db_{rate_hz}": _ripple_db(engine(rate_hz), rate_hz),
        f"{prefix}snr_db_{rate_hz}": _snr_db(engine(rate_hz), rate_hz),
    }


def _delay_ms(push: Push, rate_hz: int) -> float:
    held_s, n_in, n_out = [], 0, 0
    for millisecond in range(1, 1_001):
        chunk = millisecond * rate_hz // 1_000 - n_in
        n_in += chunk
        n_out += len(push(np.zeros(chunk, np.int16)))
        held_s.append(n_in / rate_hz - n_out / RATE_OUT_HZ)
    # Engines that work in blocks of their own are full after a third of a second.
    return 1_000 * max(held_s[333:])


def _rejection_db(engine: Callable[[int], Push], rate_hz: int) -> float:
    """Of tones all over the band whose copies lie below 12 kHz and should not."""
    lowest_hz = STOPBAND_HZ if rate_hz > RATE_OUT_HZ else 0.0
    width_hz = (rate_hz / 2 - lowest_hz) / N_STOPBAND_TONES
    tones_hz = [
        _in_period(lowest_hz + (number + 0.02 + 0.96 * (number * GOLDEN % 1)) * width_hz)
        for number in range(N_STOPBAND_TONES)
    ]
    worst = 0.0
    for tone_hz in tones_hz:
        found = _amplitudes(engine(rate_hz), rate_hz, [tone_hz])
        worst = max(worst, *(found(copy_hz) for copy_hz in _copies_hz(tone_hz, rate_hz)))
    return -20 * float(np.log10(worst))


def _copies_hz(tone_hz: float, rate_hz: int) -> Iterator[float]:
    """Where an alias or an image of a tone may come out: the spectrum of the input repeats with its rate, and all of it
    folds at half the output rate."""
    for repeat in range(4):
        for copy_hz in (abs(repeat * rate_hz - tone_hz), repeat * rate_hz + tone_hz):
            folded_hz = abs(copy_hz - RATE_OUT_HZ * round(copy_hz / RATE_OUT_HZ))
            if folded_hz != tone_hz:
                yield folded_hz


def _ripple_db(push: Push, rate_hz: int) -> float:
    edge_hz = PASSBAND_HZ * min(1.0, rate_hz / RATE_OUT_HZ)
    tones_hz = [_in_period(tone_hz) for tone_hz in np.linspace(20, edge_hz, N_PASSBAND_TONES)]
    found = _amplitudes(push, rate_hz, tones_hz)
    return max(abs(20 * float(np.log10(found(tone_hz)))) for tone_hz in tones_hz)


def _snr_db(push: Push, rate_hz: int) -> float:
    n_samples = rate_hz * (PERIOD_S + FILL_S)
    wave = 10 ** (-1 / 20) * (FULL_SCALE - 1) * np.sin(2 * np.pi * 997 / rate_hz * np.arange(n_samples))
    out = _run(push, np.rint(wave).astype(np.int16), rate_hz).astype(np.float64)
    angle = 2 * np.pi * 997 / RATE_OUT_HZ * np.arange(len(out))
    basis = np.stack((np.sin(angle), np.cos(angle)), axis=1)
    noise = out - basis @ np.linalg.lstsq(basis, out, rcond=None)[0]
    return float(20 * np.log10(FULL_SCALE / 2**0.5 / np.sqrt(np.mean(noise**2))))


def _amplitudes(push: Push, rate_hz: int, tones_hz: list[float]) -> Callable[[float], float]:
    """What comes out of such tones together, as a function of frequency: 1 is the level of each."""
    random = np.random.default_rng(len(tones_hz))
    n_samples = rate_hz * (PERIOD_S + FILL_S)
    amplitude = 0.9 * FULL_SCALE / len(tones_hz)
    angles = 2 * np.pi * np.outer(tones_hz, np.arange(n_samples) / rate_hz)
    wave = amplitude * np.sin(angles + random.uniform(0, 2 * np.pi, (len(tones_hz), 1))).sum(axis=0)
    dither = random.uniform(-0.5, 0.5, (2, n_samples)).sum(axis=0)
    out = _run(push, np.rint(wave + dither).astype(np.int16), rate_hz)
    spectrum = np.abs(np.fft.rfft(out)) / (len(out) / 2 * amplitude)
    return lambda frequency_hz: float(spectrum[round(frequency_hz * PERIOD_S)])


def _run(push: Push, samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """The last `PERIOD_S` of what comes out, without the end of the signal."""
    chunk = rate_hz // CHUNKS_PER_S
    out = np.concatenate([push(samples[at : at + chunk]) for at in range(0, len(samples), chunk)])
    return out[-PERIOD_S * RATE_OUT_HZ :]


def _in_period(frequency_hz: float) -> float:
    return round(frequency_hz * PERIOD_S) / PERIOD_S


if __name__ == "__main__":
    with ending_properly():
        measure().show()
