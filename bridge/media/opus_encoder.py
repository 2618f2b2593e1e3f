"""libopus' encoder, called by ctypes: PyAV cannot tell it to make a packet that refers to none before."""

import ctypes
import functools
import weakref

import numpy as np

from bridge.errors import InternalError
from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.libopus import find_libopus
from bridge.media.opus_decoder import N_CHANNELS, Samples

# 20 ms, as WebRTC senders have it.
FRAME_SAMPLES = OPUS_CLOCK_HZ // 50
# RFC 6716 §3.2.1: one frame has at most 1275 bytes, and its packet one more.
_MOST_BYTES = 1276
# opus_defines.h.
_APPLICATION_AUDIO = 2049
_SET_BITRATE, _SET_COMPLEXITY, _SET_PREDICTION_DISABLED = 4002, 4010, 4042
# Of 10, which takes 0.008 of a core for speech at 128 kb/s; this takes 0.0045, and is 0.5 dB nearer its noise.
_COMPLEXITY = 5


class OpusEncoder:
    """Encodes 48 kHz stereo of any kind, 20 ms at a time. Blocks; belongs to one thread at a time.

    A packet decodes `media.opus.PRE_SKIP_SAMPLES` late, as those of WebRTC senders do.
    """

    def __init__(self, bit_rate: int) -> None:
        """bit_rate: in bits per second. There is a libopus."""
        libopus = find_libopus()
        if libopus is None:
            raise InternalError("there is no libopus to encode Opus with")
        self._calls = _encoder_calls(libopus.path)
        error = ctypes.c_int()
        self._state = self._calls.opus_encoder_create(
            OPUS_CLOCK_HZ, N_CHANNELS, _APPLICATION_AUDIO, ctypes.byref(error)
        )
        if not self._state:
            raise InternalError(f"{libopus.name} made no encoder: error {error.value}")
        close = weakref.finalize(self, self._calls.opus_encoder_destroy, self._state)
        # When the process ends a thread that nobody waits for may still be encoding.
        close.atexit = False
        self._packet = ctypes.create_string_buffer(_MOST_BYTES)
        self._set(_SET_BITRATE, bit_rate)
        self._set(_SET_COMPLEXITY, _COMPLEXITY)

    def refer(self, on: bool) -> None:
        """Whether the packets to come may refer to those before them; at first they do."""
        self._set(_SET_PREDICTION_DISABLED, not on)

    def encode(self, sound: Samples) -> bytes:
        """One packet of `FRAME_SAMPLES` in [-1, 1]."""
        interleaved = np.ascontiguousarray(sound.T, np.float32)
        n_bytes = self._calls.opus_encode_float(
            self._state, interleaved.ctypes.data, len(interleaved), self._packet, _MOST_BYTES
        )
        if n_bytes < 0:
            raise InternalError(f"libopus encoded nothing: error {n_bytes}")
        return self._packet.raw[:n_bytes]

    def _set(self, request: int, value: int) -> None:
        if error := self._calls.opus_encoder_ctl(self._state, request, value):
            raise InternalError(f"libopus refused request {request}: error {error}")


@functools.cache
def _encoder_calls(path: str) -> ctypes.CDLL:
    # Encoding takes ten times as long as decoding: other threads run meanwhile.
    calls = ctypes.CDLL(path)
    calls.opus_encoder_create.argtypes = (ctypes.c_int32, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
    calls.opus_encoder_create.restype = ctypes.c_void_p
    calls.opus_encoder_destroy.argtypes = (ctypes.c_void_p,)
    calls.opus_encoder_destroy.restype = None
    calls.opus_encoder_ctl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    calls.opus_encoder_ctl.restype = ctypes.c_int
    calls.opus_encode_float.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int32,
    )
    calls.opus_encode_float.restype = ctypes.c_int32
    return calls
