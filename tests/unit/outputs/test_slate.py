"""Slates, decoded again: what they show, and that they fit the live pictures."""

import io
import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.config import SlateConfig
from bridge.errors import ConfigError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.h264 import (
    NAL_IDR,
    NAL_SLICE,
    avcc_to_annexb,
    decoder_configuration,
    is_same_format,
    nal_type,
    parameter_sets,
    split_avcc,
)
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs import check_slate, slate_files
from bridge.outputs.slate import SlateMaker
from tests.unit.outputs.coded_media import FPS, pictures, vp8_luma, vp8_pictures

Picture = NDArray[np.uint8]  # RGB


def live(**options: object) -> bytes:
    """A decoder configuration of a small live stream."""
    size = {"width_px": 320, "height_px": 180}
    return pictures(1, **(size | options))[0].codec_config  # type: ignore[arg-type]


def keyframe(codec_config: bytes) -> AccessUnit:
    return AccessUnit(Codec.H264, b"", 0, codec_config=codec_config)


def frames(slate: SlatePictures, times: int = 1) -> list[av.VideoFrame]:
    """As a player shows it, over and over."""
    stream = io.BytesIO()
    for _ in range(times):
        for number, payload in enumerate(slate.payloads):
            stream.write(avcc_to_annexb(payload, slate.codec_config if number in slate.keyframes else b""))
    stream.seek(0)
    with av.open(stream, format="h264") as media:
        shown = list(media.decode(video=0))
    assert not any(frame.is_corrupt for frame in shown)
    assert len(shown) == times * len(slate.payloads)
    return shown


def rgb(frame: av.VideoFrame) -> Picture:
    return frame.to_ndarray(format="rgb24").astype(np.uint8)


def shown(maker: SlateMaker, like: bytes = b"") -> Picture:
    return rgb(frames(maker.make(keyframe(like or live()), ()))[0])


def colour_at(picture: Picture, x: float, y: float) -> tuple[int, ...]:
    """Of the pixel at a fraction of width and height."""
    height, width, _ = picture.shape
    return tuple(int(value) for value in picture[round(y * (height - 1)), round(x * (width - 1))])


def about(colour: tuple[int, ...]) -> object:
    return pytest.approx(colour, abs=12)


def write_video(
    path: Path, colours: Iterable[tuple[int, int, int]], fps: int = 25, size: tuple[int, int] = (64, 64)
) -> Path:
    """A file whose pictures are plain; PNG, JPEG or what else the name says."""
    codec = {".png": "png", ".jpg": "mjpeg", ".gif": "gif"}.get(path.suffix, "libx264")
    pix_fmt = {".png": "rgb24", ".jpg": "yuvj420p", ".gif": "rgb8"}.get(path.suffix, "yuv420p")
    with av.open(str(path), "w", format="image2" if path.suffix in (".png", ".jpg") else None) as media:
        stream = media.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        for number, colour in enumerate(colours):
            plain = np.full((size[1], size[0], 3), colour, np.uint8)
            frame = av.VideoFrame.from_ndarray(plain, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            media.mux(stream.encode(frame))
        media.mux(stream.encode(None))
    return path


ORANGE, BLUE, GREEN = (230, 120, 30), (30, 60, 200), (30, 180, 60)


# ---------------------------------------------------------------------------------------------- the format


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
@pytest.mark.parametrize("n_references", [1, 4])
def test_a_slate_has_the_format_of_the_live_pictures(profile: str, n_references: int) -> None:
    like = live(profile=profile, n_references=n_references)
    slate = SlateMaker("card").make(keyframe(like), ())
    assert like[1] == {"baseline": 66, "main": 77, "high": 100}[profile]
    assert is_same_format(slate.codec_config, like)
    assert [(frame.width, frame.height) for frame in frames(slate)[:1]] == [(320, 180)]


def test_flags_and_level_of_a_baseline_slate_are_those_of_the_live_pictures() -> None:
    (sps,), (pps,) = parameter_sets(live())
    like = decoder_configuration(sps[:2] + bytes([0xE0, 40]) + sps[4:], pps)
    slate = SlateMaker("card").make(keyframe(like), ())
    assert slate.codec_config[1:4] == bytes([66, 0xE0, 40])


def test_a_slate_claims_nothing_that_it_does_not_keep() -> None:
    (sps,), (pps,) = parameter_sets(live(profile="main"))
    # "Obeys baseline too", which a slate with CABAC does not.
    like = decoder_configuration(sps[:2] + bytes([0xC0]) + sps[3:], pps)
    assert SlateMaker("card").make(keyframe(like), ()).codec_config[1:3] == bytes([77, 0x40])


def test_before_anything_is_live_a_slate_is_upright_constrained_baseline() -> None:
    slate = SlateMaker("card").make(None, ())
    assert slate.codec_config[1:4] == bytes([66, 0xE0, 31])
    assert {(frame.width, frame.height) for frame in frames(slate)} == {(720, 1280)}


def sized(width_mbs: int, height_mbs: int) -> bytes:
    """A configuration that claims so many macroblocks, in baseline profile (H.264 §7.3.2.1.1)."""
    numbers = [0, 0, 2, 1]  # sets' id, bits of frame numbers, order of pictures, references
    bits = "".join(exp_golomb(number) for number in numbers) + "0"
    bits += exp_golomb(width_mbs - 1) + exp_golomb(height_mbs - 1) + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    return decoder_configuration(b"\x67\x42\xe0\x1f" + int(bits, 2).to_bytes(len(bits) // 8, "big"), b"\x68\xce")


def exp_golomb(number: int) -> str:
    return f"{number + 1:b}".zfill(2 * (number + 1).bit_length() - 1)


@pytest.mark.parametrize("like", [b"\1\2\3", decoder_configuration(b"\x67\x42\xe0\x1f", b"\x68"), sized(1000, 1000)])
def test_a_live_format_that_no_avatar_has_is_not_followed(like: bytes) -> None:
    assert SlateMaker("card").make(keyframe(like), ()) == SlateMaker("card").make(None, ())


@pytest.mark.parametrize(
    ("size_px", "shown_px"), [((640, 360), (640, 360)), ((181, 321), (182, 322)), ((1, 1), (16, 16))]
)
def test_a_slate_has_the_size_of_vp8_pictures_made_even(size_px: tuple[int, int], shown_px: tuple[int, int]) -> None:
    slate = SlateMaker("card", keyframe_s=0.5).make(vp8_pictures(1, *size_px)[0], ())
    assert slate.codec_config[1:4] == bytes([66, 0xE0, 31])
    assert (frames(slate)[0].width, frames(slate)[0].height) == shown_px


@pytest.mark.parametrize("level_idc", [0, 9, 11, 255])
def test_a_level_that_is_too_low_or_unknown_is_kept_as_a_label(level_idc: int) -> None:
    (sps,), (pps,) = parameter_sets(sized(20, 10))
    like = decoder_configuration(sps[:3] + bytes([level_idc]) + sps[4:], pps)
    slate = SlateMaker("card").make(keyframe(like), ())
    assert slate.codec_config[3] == level_idc
    frames(slate)


@pytest.mark.parametrize(
    ("keyframe_s", "n_groups", "n_pictures"), [(2.0, 2, 50), (0.5, 8, 12), (1.0, 4, 25), (60.0, 1, 100)]
)
def test_keyframes_come_as_often_as_asked_and_groups_are_closed(
    keyframe_s: float, n_groups: int, n_pictures: int
) -> None:
    slate = SlateMaker("card", keyframe_s=keyframe_s).make(keyframe(live()), ())
    assert slate.keyframes == {number * n_pictures for number in range(n_groups)}
    assert len(slate.payloads) == n_groups * n_pictures
    assert slate.interval_ns == 40 * NS_PER_MS
    types = [{nal_type(nal) for nal in split_avcc(payload)} for payload in slate.payloads]
    assert types == [{NAL_IDR} if number in slate.keyframes else {NAL_SLICE} for number in range(len(types))]
    # Over and over, each group from its keyframe on, nothing refers to what was before.
    frames(slate, times=2)


# ---------------------------------------------------------------------------------------------- the card


@pytest.mark.parametrize("size_px", [(720, 1280), (1280, 720), (180, 320), (1080, 1080), (16, 16), (64, 2), (1920, 16)])
def test_the_card_is_bright_in_the_middle_on_a_dark_ground_at_any_size(size_px: tuple[int, int]) -> None:
    width_px, height_px = size_px
    like = live(width_px=width_px, height_px=height_px)
    slate = SlateMaker("card", keyframe_s=0.5).make(keyframe(like), ())
    luma = frames(slate)[0].to_ndarray(format="gray")
    assert luma.shape == (height_px, width_px)
    if min(size_px) >= 180:
        edge = max(luma[:8].max(), luma[-8:].max(), luma[:, :8].max(), luma[:, -8:].max())
        assert edge < 90 < 200 < luma[height_px // 3 : 2 * height_px // 3].max()


def test_the_card_breathes_without_a_jump_where_it_starts_again() -> None:
    slate = SlateMaker("card").make(keyframe(live()), ())
    brightness = [float(frame.to_ndarray(format="gray").mean()) for frame in frames(slate, times=2)]
    assert max(brightness) - min(brightness) > 2
    assert max(abs(later - earlier) for earlier, later in itertools.pairwise(brightness)) < 0.5


def test_sessions_whose_pictures_are_alike_share_one_card() -> None:
    like = keyframe(live())
    card = SlateMaker("card").make(like, ())
    assert SlateMaker("card").make(like, ()) is card
    assert SlateMaker("card", keyframe_s=1.0).make(like, ()) is not card


def test_a_card_is_small() -> None:
    slate = SlateMaker("card").make(None, ())
    assert sum(map(len, slate.payloads)) < 300_000


# ---------------------------------------------------------------------------------------------- the last picture


def test_the_last_picture_stands_still() -> None:
    group = pictures(10, flash_at=[9], keyframe_every=10, width_px=320, height_px=180)
    slate = SlateMaker("last").make(keyframe(group[0].codec_config), group)
    shown_frames = frames(slate)
    assert len(shown_frames) == 2 * FPS and slate.keyframes == {0}
    luma = [frame.to_ndarray(format="yuv420p")[:180] for frame in shown_frames]
    assert all(np.abs(plane.astype(int) - 235).max() <= 2 for plane in luma)
    assert sum(map(len, slate.payloads)) < 20_000


def test_colours_of_the_last_picture_are_labelled_as_they_were() -> None:
    group = pictures(2, width_px=320, height_px=180)
    untold = frames(SlateMaker("last").make(keyframe(group[0].codec_config), group))[0]
    assert (untold.colorspace, untold.color_primaries) == (2, 2)
    card = frames(SlateMaker("card").make(keyframe(group[0].codec_config), ()))[0]
    assert (card.colorspace, card.color_primaries, card.color_trc, card.color_range) == (1, 1, 1, 1)


def test_the_last_picture_may_be_vp8() -> None:
    group = vp8_pictures(10, 320, 180)
    luma = frames(SlateMaker("last").make(group[0], group))[0].to_ndarray(format="yuv420p")[:180]
    assert abs(float(luma.mean()) - vp8_luma(9)) < 2


def test_without_a_last_picture_there_is_the_card() -> None:
    like = live()
    card = SlateMaker("card").make(keyframe(like), ())
    assert SlateMaker("last").make(keyframe(like), ()) == card
    broken = [pictures(1, width_px=320, height_px=180)[0]]
    broken = [type(broken[0])(broken[0].codec, b"\0\0\0\4junk", 0, codec_config=like)]
    assert SlateMaker("last").make(keyframe(like), broken) == card


# ---------------------------------------------------------------------------------------------- image and clip


@pytest.mark.parametrize("name", ["wide.png", "wide.jpg"])
def test_an_image_is_shown_whole_on_a_darker_copy_of_itself(name: str, tmp_path: Path) -> None:
    image = write_video(tmp_path / name, [ORANGE], size=(320, 80))
    picture = shown(SlateMaker("image", image=image))
    assert colour_at(picture, 0.5, 0.5) == about(ORANGE)
    assert colour_at(picture, 0.02, 0.5) == about(ORANGE)
    above = colour_at(picture, 0.5, 0.05)
    assert sum(above) < sum(ORANGE) / 2 and above[0] > above[1] > above[2]


def test_a_tall_image_leaves_the_sides_to_its_copy(tmp_path: Path) -> None:
    image = write_video(tmp_path / "tall.png", [GREEN], size=(64, 128))
    picture = shown(SlateMaker("image", image=image))
    assert colour_at(picture, 0.5, 0.02) == about(GREEN)
    assert sum(colour_at(picture, 0.1, 0.5)) < sum(GREEN) / 2


def test_behind_a_transparent_image_there_is_the_ground_of_the_card(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), (255, 255, 255, 0), np.uint8)
    pixels[24:40, 24:40] = (*ORANGE, 255)
    encoder = av.VideoCodecContext.create("png", "w")
    encoder.width = encoder.height = 64
    encoder.pix_fmt, encoder.time_base = "rgba", Fraction(1, 25)
    (packet,) = encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgba"))
    (tmp_path / "logo.png").write_bytes(bytes(packet))
    picture = shown(SlateMaker("image", image=tmp_path / "logo.png"))
    assert colour_at(picture, 0.5, 0.5) == about(ORANGE)
    assert max(colour_at(picture, 0.5, 0.05)) < 80 and max(colour_at(picture, 0.05, 0.5)) < 80


def test_an_image_is_one_keyframe_and_hardly_anything_more(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (180, 320, 3), np.uint8)
    av.VideoFrame.from_ndarray(noise, format="rgb24").save(str(tmp_path / "noise.png"))
    slate = SlateMaker("image", image=tmp_path / "noise.png").make(keyframe(live()), ())
    assert slate.keyframes == {0}
    # The worst there is, kept within its buffer: 0.8 s of 2.5 bits per second and pixel, and as much again to refine.
    assert sum(map(len, slate.payloads)) < 320 * 180 * 2.5 * (0.8 + 2.0) / 8


@pytest.mark.parametrize("fps", [10, 25, 50])
def test_a_clip_keeps_its_pace_and_starts_again_at_its_end(fps: int, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [ORANGE] * fps + [BLUE] * fps, fps=fps)
    slate = SlateMaker("clip", clip=clip, keyframe_s=1.0).make(keyframe(live()), ())
    assert slate.keyframes == {0, 25}
    seen = [colour_at(rgb(frame), 0.5, 0.5) for frame in frames(slate, times=2)]
    assert len(seen) == 100
    assert [seen[number] for number in (0, 24, 25, 49, 50, 99)] == [
        about(colour) for colour in (ORANGE, ORANGE, BLUE, BLUE, ORANGE, BLUE)
    ]


def test_a_clip_never_ends_in_a_keyframe(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", [GREEN] * 26)
    slate = SlateMaker("clip", clip=clip, keyframe_s=1.0).make(keyframe(live()), ())
    assert (len(slate.payloads), slate.keyframes) == (25, {0})


def test_a_clip_that_was_filmed_upright_is_shown_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [ORANGE] * 5, size=(128, 64))
    # tkhd's matrix, ISO 14496-12 §8.3.2: a quarter turn, and no other.
    one = (0x10000).to_bytes(4, "big")
    straight = one + bytes(12) + one + bytes(12) + (0x40000000).to_bytes(4, "big")
    turned = bytes(4) + one + bytes(4) + (-0x10000).to_bytes(4, "big", signed=True) + bytes(16) + straight[-4:]
    track = path.read_bytes().index(b"tkhd")
    data = path.read_bytes()
    path.write_bytes(data[:track] + data[track:].replace(straight, turned, 1))
    picture = shown(SlateMaker("clip", clip=path))
    assert colour_at(picture, 0.5, 0.02) == about(ORANGE)
    assert sum(colour_at(picture, 0.05, 0.5)) < sum(ORANGE) / 2


# ---------------------------------------------------------------------------------------------- bad files


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slate\.image: .*none\.png cannot be (read|decoded) \(No such file"):
        SlateMaker("image", image=tmp_path / "none.png").check()
    with pytest.raises(ConfigError, match=r"slate\.clip: .*none\.mp4"):
        SlateMaker("clip", clip=tmp_path / "none.mp4").check()


@pytest.mark.parametrize("picture", ["image", "clip"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture at all",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
        b"ffconcat version 1.0\nfile x\n",
    ],
    ids=["empty", "text", "broken", "playlist", "concat"],
)
def test_a_file_without_a_picture_is_refused(picture: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"slate\.{picture}: .*file"):
        SlateMaker(picture, **{picture: path}).check()  # type: ignore[arg-type]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        SlateMaker("image", image=tmp_path).check()


def test_sound_alone_is_refused() -> None:
    speech = Path(slate_files.__file__).parent.parent / "samples" / "speech.flac"
    with pytest.raises(ConfigError, match="no picture in it"):
        SlateMaker("clip", clip=speech).check()


def test_a_coding_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", [BLUE] * 3)
    clip.write_bytes(clip.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"))
    with pytest.raises(ConfigError, match="coding that this FFmpeg does not know"):
        SlateMaker("clip", clip=clip).check()


def test_a_clip_that_is_too_long_is_refused(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [BLUE] * 31, fps=1)
    with pytest.raises(ConfigError, match="longer than 30 s"):
        SlateMaker("clip", clip=clip).check()


def test_a_still_is_no_clip(tmp_path: Path) -> None:
    image = write_video(tmp_path / "still.png", [BLUE])
    with pytest.raises(ConfigError, match=r"slate\.image takes a still"):
        SlateMaker("clip", clip=image).check()


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_video(tmp_path / "image.png", [BLUE])
    monkeypatch.setattr(slate_files, "MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(ConfigError, match="64x64 pixels, more than"):
        SlateMaker("image", image=image).check()
    monkeypatch.setattr(slate_files, "LARGEST_FILE_BYTES", 10)
    with pytest.raises(ConfigError, match="is larger than"):
        SlateMaker("image", image=image).check()


def test_a_file_that_goes_away_while_on_air_leaves_the_card(tmp_path: Path) -> None:
    image = write_video(tmp_path / "image.png", [BLUE])
    maker = SlateMaker("image", image=image)
    maker.make(keyframe(live()), ())
    image.unlink()
    other = live(profile="main")
    assert maker.make(keyframe(other), ()) == SlateMaker("card").make(keyframe(other), ())


def test_what_is_configured_can_be_checked(tmp_path: Path) -> None:
    check_slate(SlateConfig())
    check_slate(SlateConfig(picture="last"))
    check_slate(SlateConfig(picture="image", image=write_video(tmp_path / "image.png", [BLUE])))
    with pytest.raises(ConfigError, match=r"slate\.clip"):
        check_slate(SlateConfig(picture="clip", clip=tmp_path / "none.mp4"))
