"""What the local avatar service can be told: how it looks, and how it is to misbehave."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.local_avatar.faults import Fault
from bridge.media.access_unit import Codec
from bridge.redact import Secret

ServiceName = Literal["navtalk", "navtalk-legacy", "navtalk-clips", "livekit", "heygen", "liveavatar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAvatarOptions:
    """The local avatar service.

    services       which ones of the cloud it imitates.
    listen_port    0: any free one.
    license        the only one accepted; None: any that is not empty. Of rooms: the secret that signs tokens.
    size_px        width and height of the picture.
    codec          of the pictures: H264 or VP8.
    profile        of H.264, as the pictures have it and the offer says.
    timecode       prints a machine-readable frame counter with the encode-complete time into the picture.
    flash          a white flash with a beep of 1 kHz at known media times.
    faults         of every session; one session's own come from its URL.
    """

    services: Sequence[ServiceName] = ("navtalk",)
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    license: Secret | None = None
    size_px: tuple[int, int] = (720, 1280)
    fps: int = 25
    codec: Codec = Codec.H264
    profile: Literal["baseline", "main", "high"] = "baseline"
    timecode: bool = False
    flash: bool = False
    faults: Sequence[Fault] = ()
