"""Raw sound: samples one behind the other, and nothing that says what they are."""

import numpy as np
from numpy.typing import NDArray

from bridge.protocols.pcm_url import PcmFormat


class FrameCutter:
    """Cuts a stream of bytes into whole frames, wherever its pieces end."""

    def __init__(self, format: PcmFormat) -> None:
        self._format = format
        self._held = b""

    def push(self, piece: bytes) -> NDArray[np.int16] | NDArray[np.float32]:
        """The frames that are complete, shape (n, n_channels), n >= 0."""
        data = self._held + piece
        whole = len(data) - len(data) % self._format.frame_bytes
        self._held = data[whole:]
        return samples_of(data[:whole], self._format)


def samples_of(frames: bytes, format: PcmFormat) -> NDArray[np.int16] | NDArray[np.float32]:
    """Shape (n, n_channels) of whole frames: s16le as int16, all others as float32 with range [-1, 1].

    float32 holds 24 bits exactly; of 32 it keeps those.
    """
    match format.encoding:
        case "s16le":
            return np.frombuffer(frames, "<i2").astype(np.int16).reshape(-1, format.n_channels)
        case "f32le":
            return np.frombuffer(frames, "<f4").astype(np.float32).reshape(-1, format.n_channels)
        case "s32le":
            wide = np.frombuffer(frames, "<i4")
        case "s24le":
            # Three bytes as the upper ones of four.
            padded = np.zeros((len(frames) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
            wide = padded.reshape(-1).view("<i4")
    return (wide / 2.0**31).astype(np.float32).reshape(-1, format.n_channels)
