"""Which way an output's pictures take, and why."""

import pytest

from bridge.media.access_unit import Codec
from bridge.media.picture_format import PictureSize, StreamFormat
from bridge.outputs.choice import Mode, OnAir, PictureWants, Way, choose
from bridge.outputs.overlay import OverlaySettings

PORTRAIT, WIDE = PictureSize(720, 1280), PictureSize(1280, 720)
HUGE = StreamFormat(PictureSize(7680, 4320))
LIVE = OnAir(Codec.H264, StreamFormat(PORTRAIT), is_live=True)
SLATE = LIVE._replace(is_live=False)
VP8 = LIVE._replace(codec=Codec.VP8)
RTMP = PictureWants(needs_one_size=True, longest_group_s=4.0)
COPIED = Mode(Way.COPY, "as_received")


@pytest.mark.parametrize(
    ("wants", "on_air", "shown", "mode"),
    [
        (PictureWants(), LIVE, None, COPIED),
        (RTMP, LIVE, None, COPIED),
        (RTMP, LIVE, PORTRAIT, COPIED),
        (RTMP, LIVE, WIDE, Mode(Way.ENCODE, "size")),
        (PictureWants(), LIVE, WIDE, COPIED),
        (PictureWants(size=PORTRAIT), LIVE, None, COPIED),
        (PictureWants(size=WIDE), LIVE, None, Mode(Way.ENCODE, "size")),
        (PictureWants(size=WIDE), SLATE, None, Mode(Way.ENCODE, "size")),
        (PictureWants(fps=30), LIVE, None, Mode(Way.ENCODE, "fps")),
        (PictureWants(bit_rate=3_000_000), LIVE, None, COPIED),
        (PictureWants(), VP8, None, Mode(Way.ENCODE, "codec")),
        (RTMP, LIVE._replace(group_s=4.0), None, COPIED),
        (RTMP, LIVE._replace(group_s=4.1), PORTRAIT, Mode(Way.ENCODE, "keyframes")),
        (PictureWants(), LIVE._replace(group_s=60.0), None, COPIED),
        # Nothing tells yet what size live pictures have.
        (RTMP, SLATE, None, COPIED),
        (PictureWants(video="encode"), SLATE, None, Mode(Way.COPY, "starting")),
        (PictureWants(video="encode", size=WIDE), SLATE, None, Mode(Way.ENCODE, "configured")),
        (PictureWants(video="encode"), SLATE, PORTRAIT, Mode(Way.ENCODE, "configured")),
        (PictureWants(video="encode"), LIVE, None, Mode(Way.ENCODE, "configured")),
        (PictureWants(video="copy"), LIVE, WIDE, Mode(Way.COPY, "configured")),
        (PictureWants(video="copy"), VP8, None, Mode(Way.SLATE, "codec")),
        # What cannot be decoded in real time.
        (RTMP, LIVE._replace(format=HUGE), PORTRAIT, Mode(Way.COPY, "too_large")),
        (RTMP, VP8._replace(format=HUGE), None, Mode(Way.SLATE, "too_large")),
        (PictureWants(video="encode"), LIVE._replace(format=HUGE), None, Mode(Way.COPY, "too_large")),
        # Parameter sets that cannot be read.
        (RTMP, LIVE._replace(format=None), PORTRAIT, COPIED),
        (PictureWants(video="encode"), LIVE._replace(format=None), None, Mode(Way.COPY, "starting")),
        (PictureWants(), VP8._replace(format=None), None, Mode(Way.SLATE, "starting")),
    ],
)
def test_pictures_are_encoded_where_copying_will_not_do(
    wants: PictureWants, on_air: OnAir, shown: PictureSize | None, mode: Mode
) -> None:
    assert choose(wants, on_air, shown) == mode


def test_what_a_preset_rejects_is_encoded_unless_copying_is_demanded() -> None:
    rejected = ["video.profile"]
    assert choose(RTMP, LIVE, None, rejected) == Mode(Way.ENCODE, "preset_video_profile")
    assert choose(PictureWants(video="copy"), LIVE, None, rejected) == Mode(Way.COPY, "configured")


@pytest.mark.parametrize(
    ("mode", "replaces"),
    [
        (COPIED, False),
        (Mode(Way.ENCODE, "keyframes"), False),
        (Mode(Way.ENCODE, "size"), True),
        (Mode(Way.ENCODE, "preset_video_profile"), True),
        (Mode(Way.SLATE, "codec"), True),
    ],
)
def test_what_may_be_shown_goes_on_until_the_encoder_has_a_keyframe(mode: Mode, replaces: bool) -> None:
    assert mode.replaces_at_once == replaces
    assert mode.needs_keyframes != replaces


@pytest.mark.parametrize(
    ("wants", "of", "size", "bit_rate"),
    [
        (PictureWants(), WIDE, (1280, 720), 3_000_000),
        (PictureWants(), PictureSize(181, 321), (182, 322), 200_000),
        (PictureWants(), PictureSize(1, 1), (32, 32), 200_000),
        (PictureWants(size=WIDE, fps=60), None, (1280, 720), 6_000_000),
        (PictureWants(size=WIDE, bit_rate=4_500_000), PORTRAIT, (1280, 720), 4_500_000),
    ],
)
def test_size_and_rate_come_from_the_configuration_or_the_pictures(
    wants: PictureWants, of: PictureSize | None, size: tuple[int, int], bit_rate: int
) -> None:
    rendition = wants.rendition(StreamFormat(of) if of else None)
    assert (rendition.width_px, rendition.height_px) == size
    assert rendition.bit_rate == bit_rate and rendition.fps == (wants.fps or 30)


@pytest.mark.parametrize(("profile_idc", "profile"), [(66, "baseline"), (100, "high"), (0, "main"), (244, "main")])
def test_encoded_pictures_have_the_profile_and_level_of_those_that_were_copied(profile_idc: int, profile: str) -> None:
    rendition = PictureWants(size=WIDE).rendition(StreamFormat(PORTRAIT, profile_idc, 40))
    assert (rendition.profile, rendition.level_idc) == (profile, 40)


def test_a_preset_s_profiles_and_largest_size_are_kept() -> None:
    wants = PictureWants(profiles=("baseline",), most_px=(1280, 720))
    rendition = wants.rendition(StreamFormat(PictureSize(1080, 1920), 77, 40))
    assert (rendition.profile, rendition.width_px, rendition.height_px) == ("baseline", 720, 1280)


def test_an_overlay_takes_encoding() -> None:
    wants = PictureWants(overlay=OverlaySettings(text="Live"))
    assert choose(wants, LIVE) == Mode(Way.ENCODE, "overlay")
    assert wants.rendition(StreamFormat(PORTRAIT)).overlay == wants.overlay
