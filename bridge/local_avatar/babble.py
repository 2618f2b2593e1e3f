"""Speech that says nothing: syllables in the rhythm of a text, by the source-filter model of speech (Fant, 1960).

A train of pulses, the voice, goes through resonators at the formants of a vowel; noise through one resonator is the
hiss of consonants. Letters choose the sounds; no language is understood.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar.voice import Pcm
from bridge.media.clock import AVATAR_RATE_HZ

_Track = NDArray[np.float64]

_FRAME_SAMPLES = AVATAR_RATE_HZ // 200  # 5 ms: formants move by less than their bandwidth meanwhile
_FRAMES_PER_S = AVATAR_RATE_HZ // _FRAME_SAMPLES
_PEAK = 32767 * 10 ** (-6 / 20)

_PITCH_HZ = 200.0
# Declination, stress and question are shares of the pitch; a statement falls by 2 to 3 semitones.
_FALL = 0.16
_STRESS = 0.12
_QUESTION = 0.35


@dataclass(frozen=True, slots=True)
class _Sound:
    """formants_hz: of the mouth; voice, hiss: 0 .. 1; hiss_hz: its middle; stress: of the pitch, 0 .. 1."""

    formants_hz: tuple[float, float, float] = (500, 1500, 2500)
    voice: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 4000.0
    duration_s: float = 0.07
    stress: float = 0.0

    @property
    def n_frames(self) -> int:
        return round(self.duration_s * _FRAMES_PER_S)

    @property
    def is_vowel(self) -> bool:
        return self.voice == 1.0


def _vowel(first_hz: float, second_hz: float, third_hz: float) -> list[_Sound]:
    return [_Sound((first_hz, second_hz, third_hz), voice=1.0, duration_s=0.1)]


def _murmur(first_hz: float, second_hz: float, third_hz: float, voice: float) -> list[_Sound]:
    return [_Sound((first_hz, second_hz, third_hz), voice)]


def _fricative(second_hz: float, hiss_hz: float, hiss: float, voice: float = 0.0) -> list[_Sound]:
    return [_Sound((300, second_hz, 2500), voice, hiss, hiss_hz, duration_s=0.08)]


def _plosive(second_hz: float, hiss_hz: float, voice: float = 0.0) -> list[_Sound]:
    closed = _Sound((250, second_hz, 2500), voice, duration_s=0.05)
    return [closed, replace(closed, hiss=0.3, hiss_hz=hiss_hz, duration_s=0.02)]


# Vowels: means of men (Peterson and Barney, 1952, table II). Nasals, liquids, the second formants that plosives come
# from, and where the noise of fricatives lies: Stevens, Acoustic Phonetics (1998), chapters 7 to 9.
_SOUNDS = {
    "a": _vowel(730, 1090, 2440),
    "ai": _vowel(660, 1720, 2410),
    "e": _vowel(530, 1840, 2480),
    "ea": _vowel(270, 2290, 3010),
    "ee": _vowel(270, 2290, 3010),
    "i": _vowel(390, 1990, 2550),
    "o": _vowel(570, 840, 2410),
    "oo": _vowel(300, 870, 2240),
    "u": _vowel(440, 1020, 2240),
    "y": _vowel(330, 2100, 2800),
    "m": _murmur(250, 1000, 2200, 0.4),
    "n": _murmur(250, 1500, 2400, 0.4),
    "ng": _murmur(250, 1900, 2500, 0.4),
    "l": _murmur(360, 1300, 2700, 0.6),
    "r": _murmur(420, 1300, 1600, 0.6),
    "w": _murmur(300, 700, 2200, 0.6),
    "h": _fricative(1500, 1500, 0.08, 0.1),
    "f": _fricative(1100, 5000, 0.08),
    "ph": _fricative(1100, 5000, 0.08),
    "v": _fricative(1100, 5000, 0.04, 0.4),
    "th": _fricative(1400, 5500, 0.07, 0.15),
    "s": _fricative(1700, 6500, 0.22),
    "x": _fricative(1800, 5500, 0.22),
    "z": _fricative(1700, 6500, 0.12, 0.3),
    "sh": _fricative(1900, 3300, 0.24),
    "ch": _fricative(1900, 3600, 0.24),
    "j": _fricative(1900, 3400, 0.14, 0.2),
    "p": _plosive(900, 1200),
    "b": _plosive(900, 1200, 0.15),
    "t": _plosive(1700, 4200),
    "d": _plosive(1700, 3800, 0.15),
    **dict.fromkeys(("k", "c", "ck", "q"), _plosive(2000, 2200)),
    "g": _plosive(2000, 2200, 0.15),
}
_SPELLING = re.compile("|".join(sorted(_SOUNDS, key=len, reverse=True)) + r"|\s+|[,;:.!?]+")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYLLABLES = ("ka", "mo", "ni", "su", "ta", "re", "la", "wo", "shi", "ne", "go")  # one for a letter of another script

_GAP_S, _COMMA_S, _STOP_S = 0.02, 0.18, 0.35


def babble(text: str) -> Pcm:
    """Babble in the rhythm of a text, 24 kHz mono, peaks at -6 dBFS: some 13 characters a second, pauses at its points.

    The same text sounds the same; one without letters is empty.
    """
    sounds = list(_sounds(_spelled(text)))
    if not any(sound.voice or sound.hiss for sound in sounds):
        return np.zeros(0, np.int16)
    n_frames = [sound.n_frames for sound in sounds]

    def track(values: list[float], smooth_s: float) -> _Track:
        return _smooth(np.repeat(np.array(values, float), n_frames), smooth_s)

    formants_hz = [track([sound.formants_hz[index] for sound in sounds], 0.045) for index in range(3)]
    stress = track([sound.stress for sound in sounds], 0.12)
    voice = _per_sample(track([sound.voice for sound in sounds], 0.035))
    hiss = _per_sample(track([sound.hiss for sound in sounds], 0.015))
    hiss_hz = np.repeat([sound.hiss_hz for sound in sounds], n_frames)
    noise = np.random.default_rng(0).standard_normal(len(voice))

    # The fourth formant is the same in all vowels.
    mouth = zip([*formants_hz, np.full_like(stress, 3600)], (70, 100, 160, 250), strict=True)
    larynx = voice * (_pulses(_per_sample(_PITCH_HZ * (1 + stress))) + 0.01 * noise)
    spoken = _filtered(larynx, np.stack([_resonator(centre_hz, width_hz) for centre_hz, width_hz in mouth], axis=1))
    hissed = _filtered(hiss * noise, _band(hiss_hz, 0.35)[:, np.newaxis])
    whole = spoken / np.abs(spoken).max(initial=1e-9) + hissed
    # 4 ms, half a period of the voice: no click where it begins and ends.
    fade = np.minimum(1, np.arange(len(whole)) / 96)
    whole *= fade * fade[::-1]
    pcm: Pcm = np.rint(whole * (_PEAK / np.abs(whole).max())).astype(np.int16)
    return pcm


def _spelled(text: str) -> str:
    """Only letters a to z, spaces and points."""
    spelled = []
    for character in unicodedata.normalize("NFKD", text).casefold():
        if character.isdecimal():
            spelled.append(f" {_DIGITS[unicodedata.decimal(character)]} ")
        elif character.isalpha() and not character.isascii():
            spelled.append(_SYLLABLES[ord(character) % len(_SYLLABLES)])
        else:
            spelled.append(character)
    return "".join(spelled).strip()


def _sounds(text: str) -> Iterator[_Sound]:
    """The sounds of a text, its pitch falling within phrases and rising at the end of questions."""
    for phrase in re.findall(r"[^,;:.!?]+[,;:.!?]*", text):
        begins_word = True
        matches = list(_SPELLING.finditer(phrase))
        for place, match in enumerate(matches):
            spelling, share = match.group(), place / len(matches)
            melody = _FALL * (0.5 - share) + _QUESTION * max(0.0, share - 0.7) / 0.3 * ("?" in phrase)
            if spelling not in _SOUNDS:
                begins_word = True
                pause_s = _GAP_S if spelling.isspace() else _COMMA_S if spelling[0] in ",;:" else _STOP_S
                yield _Sound(duration_s=pause_s, stress=melody)
                continue
            for sound in _SOUNDS[spelling]:
                accent = _STRESS * (sound.is_vowel and begins_word)
                begins_word = begins_word and not sound.is_vowel
                yield replace(sound, stress=melody + accent)


def _smooth(track: _Track, width_s: float) -> _Track:
    window = np.hanning(2 * round(width_s * _FRAMES_PER_S / 2) + 3)
    padded = np.pad(track, len(window) // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")


def _per_sample(track: _Track) -> _Track:
    middles = (np.arange(len(track)) + 0.5) * _FRAME_SAMPLES
    return np.interp(np.arange(len(track) * _FRAME_SAMPLES), middles, track)


def _pulses(pitch_hz: _Track) -> _Track:
    """What the larynx sends into the throat: the change of its flow, which rises slowly and breaks off (Rosenberg)."""
    phase = np.cumsum(pitch_hz / AVATAR_RATE_HZ) % 1
    opened = np.minimum(phase / 0.6, 1)
    flow = opened**2 * (1 - opened) * 27 / 4
    return np.diff(flow, prepend=0.0)


def _resonator(centre_hz: _Track, width_hz: float) -> NDArray[np.float64]:
    """Second-order sections, one for each frame: a resonance that leaves 0 Hz as it is (Klatt, 1980, equation 2)."""
    decay = np.exp(-np.pi * width_hz / AVATAR_RATE_HZ)
    turn = 2 * decay * np.cos(2 * np.pi * centre_hz / AVATAR_RATE_HZ)
    return _sections(1 - turn + decay**2, 0.0, 0.0, -turn, decay**2)


def _band(centre_hz: _Track, width: float) -> NDArray[np.float64]:
    """Second-order sections, one for each frame: a resonance `width` of its centre wide, with nothing at 0 Hz."""
    decay = np.exp(-np.pi * width * centre_hz / AVATAR_RATE_HZ)
    turn = 2 * decay * np.cos(2 * np.pi * centre_hz / AVATAR_RATE_HZ)
    return _sections((1 - decay**2) / 2, 0.0, (decay**2 - 1) / 2, -turn, decay**2)


def _sections(b0: _Track, b1: float, b2: _Track | float, a1: _Track, a2: _Track | float) -> NDArray[np.float64]:
    return np.stack(np.broadcast_arrays(b0, b1, b2, 1.0, a1, a2), axis=1)


def _filtered(samples: _Track, sections: NDArray[np.float64]) -> _Track:
    """Samples through filters that change with every frame: sections of shape (frames, sections, 6)."""
    # Takes half a second and more, which whoever has espeak-ng need not wait for.
    from scipy.signal import sosfilt

    state = np.zeros((sections.shape[1], 2))
    filtered = np.empty_like(samples)
    for frame, section in enumerate(sections):
        part = slice(frame * _FRAME_SAMPLES, (frame + 1) * _FRAME_SAMPLES)
        filtered[part], state = sosfilt(section, samples[part], zi=state)
    return filtered
