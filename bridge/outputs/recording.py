"""One media file being written: coded pictures and sound go in untouched, by PyAV. Blocks."""

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.h264 import avcc_to_annexb, join_avcc, parameter_sets
from bridge.media.opus import PRE_SKIP_SAMPLES

# Containers time an Opus packet by what it decodes to after `PRE_SKIP_SAMPLES` (RFC 7845 §4.3), senders stamp what
# the encoder heard: the packet's own start lies that much earlier.
OPUS_SHIFT_NS = ticks_to_ns(PRE_SKIP_SAMPLES, OPUS_CLOCK_HZ)
# A picture lasts until the next one. In MP4 it waits for that: the muxer lets a fragment's first picture begin where
# the one before it ends (movenc.c), so that a guess would move it. Elsewhere, and for the last one of a file, the guess
# is the duration of the one before it, or that of 25 a second; a pause of the avatar is no duration.
FIRST_PICTURE_NS = 40 * NS_PER_MS
LONGEST_PICTURE_NS = 200 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Container:
    """A file format: FFmpeg's name of its muxer, that muxer's options, and the sound that it takes."""

    muxer: str
    audio_codec: Codec
    options: dict[str, str]

    @property
    def is_by_duration(self) -> bool:
        """Whether pictures lie where the one before them ends."""
        return self.muxer == "mp4"


# A process that is killed loses what is not in the file yet, so every format puts what it has there within a second:
# MP4 as fragments (microseconds), Matroska as clusters (milliseconds), the others packet by packet.
CONTAINERS = {
    ".mp4": Container(
        "mp4", Codec.AAC, {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "900000"}
    ),
    ".mkv": Container("matroska", Codec.OPUS, {"cluster_time_limit": "900"}),
    ".flv": Container("flv", Codec.AAC, {}),
    ".ts": Container("mpegts", Codec.AAC, {}),
}
# max_interleave_delta: pictures wait for the sound that belongs before them, but no longer than half a second.
_MUXER_OPTIONS = {"flush_packets": "1", "max_interleave_delta": "500000"}


class Recording:
    """A file from one keyframe to its close: time 0 is that keyframe, sound from before it is left out.

    The parameter sets of the first keyframe stand in the header. Others of the same format, such as those of an
    encoder that numbers them anew at each keyframe, stand before their pictures; of another format the owner makes a
    new file.

    n_pictures          so far.
    begins_ns, ends_ns  session time of the first keyframe, and of the last picture's end, which its owner may know
                        better: the next file's beginning.
    """

    def __init__(
        self,
        sink: BinaryIO,
        container: Container,
        keyframe: AccessUnit,
        *,
        zero_ns: int | None = None,
        is_in_band: bool = False,
    ) -> None:
        """`zero_ns`: the session time of time 0, if it is not the keyframe's. `is_in_band`: parameter sets stand before
        every keyframe, because the header may not be the one that players have read.

        Raises OSError, av.FFmpegError, as the other methods do.
        """
        self.codec_config = keyframe.codec_config
        self.begins_ns = self.ends_ns = keyframe.pts_ns
        self.n_pictures = 0
        self._is_in_band = is_in_band
        self._zero_ns = keyframe.pts_ns if zero_ns is None else zero_ns
        self._muxer = av.open(sink, "w", format=container.muxer, options=_MUXER_OPTIONS | container.options)
        self._video = _add_video(self._muxer, keyframe)
        self._audio = _add_audio(self._muxer, container.audio_codec)
        self._muxer.start_encoding()
        self._ticks = {self._video: -1, self._audio: -1}
        self._picture_ns = FIRST_PICTURE_NS
        self._is_by_duration = container.is_by_duration
        self._newest: AccessUnit | None = None

    def takes(self, unit: AccessUnit) -> bool:
        """Whether a unit lies behind the first keyframe; the others are left out."""
        return _starts_ns(unit) >= self.begins_ns

    def write(self, unit: AccessUnit) -> None:
        if unit.codec.kind == "video":
            if self._newest is not None:
                self._picture_ns = min(unit.pts_ns - self._newest.pts_ns, LONGEST_PICTURE_NS)
                if self._is_by_duration:
                    self._mux_picture(self._newest, unit.pts_ns)
            self._newest = self._self_contained(unit)
            self.ends_ns = unit.pts_ns + self._picture_ns
            self.n_pictures += 1
            if not self._is_by_duration:
                self._mux_picture(self._newest, self.ends_ns)
        elif self.takes(unit):
            self._mux(self._audio, unit, unit.duration_ns)

    def close(self) -> None:
        try:
            if self._newest is not None and self._is_by_duration:
                self._mux_picture(self._newest, self.ends_ns)
        finally:
            self._muxer.close()

    def _mux_picture(self, picture: AccessUnit, ends_ns: int) -> None:
        self._mux(self._video, picture, ends_ns - picture.pts_ns)

    def _self_contained(self, picture: AccessUnit) -> AccessUnit:
        """With its parameter sets, if it is a keyframe that cannot count on those of the header."""
        if not picture.is_keyframe:
            return picture
        # For good: sets that returned to the header's would else be decoded with what came between.
        self._is_in_band |= picture.codec_config != self.codec_config
        if not self._is_in_band:
            return picture
        sequence_sets, picture_sets = parameter_sets(picture.codec_config)
        return replace(picture, payload=join_avcc([*sequence_sets, *picture_sets]) + picture.payload)

    def _mux(self, stream: VideoStream | AudioStream, unit: AccessUnit, duration_ns: int) -> None:
        assert stream.time_base is not None
        pts_ns = _starts_ns(unit) - self._zero_ns
        rate_hz = stream.time_base.denominator
        # FLV and Matroska count milliseconds, in which two units of a catching-up timeline may coincide.
        ticks = max(ns_to_ticks(pts_ns, rate_hz), self._ticks[stream] + 1)
        self._ticks[stream] = ticks
        packet = av.Packet(unit.payload)
        packet.stream = stream
        packet.time_base = stream.time_base
        packet.pts = packet.dts = ticks
        packet.duration = ns_to_ticks(duration_ns, rate_hz)
        packet.is_keyframe = unit.is_keyframe
        self._muxer.mux_one(packet)


def _starts_ns(unit: AccessUnit) -> int:
    return unit.pts_ns - OPUS_SHIFT_NS if unit.codec is Codec.OPUS else unit.pts_ns


def _add_video(muxer: av.container.OutputContainer, keyframe: AccessUnit) -> VideoStream:
    # Opened as a file of its own, the keyframe tells FFmpeg size and profile; an encoder's stream would replace the
    # parameter sets by its own.
    annexb = io.BytesIO(avcc_to_annexb(keyframe.payload, keyframe.codec_config))
    with av.open(annexb, format="h264") as parsed:
        stream = muxer.add_stream_from_template(parsed.streams.video[0], opaque=True)
    stream.codec_context.extradata = keyframe.codec_config
    stream.time_base = Fraction(1, VIDEO_CLOCK_HZ)
    return stream


def _add_audio(muxer: av.container.OutputContainer, codec: Codec) -> AudioStream:
    # Nothing is encoded: the codec describes itself to the container, with its configuration and its delay.
    stream = muxer.add_stream("libopus" if codec is Codec.OPUS else "aac", rate=OPUS_CLOCK_HZ, layout="stereo")
    if codec is Codec.OPUS:
        stream.codec_context.options = {"application": "voip"}
    return stream
