"""Pictures that are ready to stand in for live ones."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlatePictures:
    """H.264 pictures that are shown over and over, `interval_ns` apart.

    codec_config  AVCDecoderConfigurationRecord.  payloads: AVCC, at least two, for two IDR pictures in a row would need
                  different idr_pic_ids (H.264 §7.4.3).
    keyframes     which are IDR pictures: the first, the last never.
    """

    codec_config: bytes
    payloads: tuple[bytes, ...]
    interval_ns: int
    keyframes: frozenset[int] = frozenset({0})
