"""libopus, called by ctypes: the concealment and in-band FEC of its decoder, which PyAV does not pass on."""

import ctypes
import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from bridge.errors import InternalError
from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.opus_decoder import LONGEST_SAMPLES, N_CHANNELS, STEP_SAMPLES, BrokenPacket, Samples, from_pcm

# The name that the ABI used here has had on Linux since version 1.0. The loader finds it by itself;
# ctypes.util.find_library would run ldconfig, and a compiler where there is none.
_SYSTEM_S = "libopus.so.0"
# What auditwheel puts beside the package av, on every architecture.
_WHEEL_S = "av.libs/libopus-*.so*"
_RESET_STATE = 4028  # opus_defines.h: OPUS_RESET_STATE, a request without an argument


@dataclass(frozen=True, slots=True)
class Libopus:
    """A library that was loaded. name: version, and whose it is.  path: as the loader finds it."""

    calls: ctypes.PyDLL
    name: str
    path: str


@functools.cache
def find_libopus() -> Libopus | None:
    """The system's libopus, else the one that the package av brings, else None. Blocks: files are read."""
    return next(_found(), None)


def load_libopus(path: str, whose: str) -> Libopus:
    """Raises OSError: there is none, or it is not what it should be."""
    # Calls keep the GIL: letting it go and fighting for it again costs as much as decoding 20 ms, which takes 0.05 ms.
    calls = ctypes.PyDLL(path)
    try:
        calls.opus_get_version_string.argtypes = ()
        calls.opus_get_version_string.restype = ctypes.c_char_p
        calls.opus_decoder_create.argtypes = (ctypes.c_int32, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
        calls.opus_decoder_create.restype = ctypes.c_void_p
        calls.opus_decoder_destroy.argtypes = (ctypes.c_void_p,)
        calls.opus_decoder_destroy.restype = None
        calls.opus_decoder_ctl.argtypes = (ctypes.c_void_p, ctypes.c_int)
        calls.opus_decoder_ctl.restype = ctypes.c_int
        calls.opus_decode.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
        )
        calls.opus_decode.restype = ctypes.c_int
    except AttributeError as error:
        raise OSError(f"{path} is no libopus: {error}") from error
    version = calls.opus_get_version_string() or b""
    return Libopus(calls, f"{version.decode('ascii', 'replace')} ({whose})", path)


def system_libopus() -> Libopus:
    """Raises OSError: the system has none."""
    return load_libopus(_SYSTEM_S, "system")


def wheel_libopus() -> Libopus:
    """Raises OSError: the package av brings none, because it was built for the system's."""
    for path in sorted(Path(av.__file__).parent.parent.glob(_WHEEL_S)):
        return load_libopus(str(path), "av")
    raise OSError("the package av brings no libopus")


def _found() -> Iterator[Libopus]:
    for load in (system_libopus, wheel_libopus):
        try:
            yield load()
        except OSError:
            continue


class LibopusDecoder:
    """An `OpusDecoder` of libopus: 48 kHz stereo, whatever was coded.

    Belongs to one thread at a time, and holds the GIL: for 0.3 ms at the longest packet there is. It writes to a buffer
    of its own, which holds such a packet: no byte that arrives makes it write elsewhere.
    """

    can_restore = True

    def __init__(self, libopus: Libopus) -> None:
        self.name = libopus.name
        self._calls = libopus.calls
        error = ctypes.c_int()
        self._state = self._calls.opus_decoder_create(OPUS_CLOCK_HZ, N_CHANNELS, ctypes.byref(error))
        if not self._state:
            raise InternalError(f"{self.name} made no decoder: error {error.value}")
        close = weakref.finalize(self, self._calls.opus_decoder_destroy, self._state)
        # When the process ends a thread that nobody waits for may still be decoding.
        close.atexit = False
        self._pcm = np.empty((LONGEST_SAMPLES, N_CHANNELS), np.int16)
        self._pcm_at = self._pcm.ctypes.data

    def decode(self, packet: bytes) -> Samples:
        if not packet:
            raise BrokenPacket("it is empty")
        return self._decode(packet, LONGEST_SAMPLES, is_next=False)

    def restore(self, packet: bytes, n_samples: int) -> Samples:
        if not packet:
            raise BrokenPacket("it is empty")
        _check_step(n_samples)
        return self._decode(packet, n_samples, is_next=True)

    def make_up(self, n_samples: int) -> Samples:
        _check_step(n_samples)
        return self._decode(None, n_samples, is_next=False)

    def reset(self) -> None:
        if error := self._calls.opus_decoder_ctl(self._state, _RESET_STATE):
            raise InternalError(f"{self.name} was not reset: error {error}")

    def _decode(self, packet: bytes | None, n_samples: int, *, is_next: bool) -> Samples:
        n_bytes = len(packet) if packet is not None else 0
        n_decoded = self._calls.opus_decode(self._state, packet, n_bytes, self._pcm_at, n_samples, is_next)
        if n_decoded < 0:
            raise BrokenPacket(f"{self.name}: error {n_decoded}")
        return from_pcm(self._pcm[:n_decoded])


def _check_step(n_samples: int) -> None:
    if not 0 < n_samples <= LONGEST_SAMPLES or n_samples % STEP_SAMPLES:
        raise ValueError(f"{n_samples} samples are not made up in one step")
