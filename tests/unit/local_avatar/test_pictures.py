"""What the avatar says of a picture is true, and a picture that is none is refused."""

import base64
import io

import av
import numpy as np
import pytest

from bridge.local_avatar import pictures
from bridge.local_avatar.pictures import describe_picture


def data_url(rgb: tuple[int, int, int], *, codec: str = "mjpeg", media_type: str = "image/jpeg") -> str:
    frame = av.VideoFrame.from_ndarray(np.full((48, 80, 3), rgb, np.uint8), format="rgb24")
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height = 80, 48
        stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("rgb", "colour"),
    [((20, 40, 220), "blue"), ((250, 250, 250), "white"), ((200, 30, 30), "red"), ((10, 10, 10), "black")],
)
@pytest.mark.parametrize("codec", ["mjpeg", "png"])
def test_size_and_foremost_colour_are_told(rgb: tuple[int, int, int], colour: str, codec: str) -> None:
    url = data_url(rgb, codec=codec, media_type="image/png" if codec == "png" else "image/jpeg")
    assert describe_picture(url) == f"I see a picture of 80 by 48 pixels, mostly {colour}."


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no data URL"),
        ("https://example.org/a.jpg", "no data URL"),
        ("data:image/gif;base64,R0lG", "no data URL"),
        ("data:image/jpeg;base64,", "damaged"),
        ("data:image/jpeg;base64,AAAA", "damaged"),
        ("data:image/jpeg;base64,/9j!", "not in base64"),
        (data_url((0, 0, 0), media_type="image/png"), "damaged"),
        (data_url((0, 0, 0))[:151], "damaged"),
    ],
    ids=["empty", "address", "gif", "no bytes", "zeros", "no base64", "other type", "cut"],
)
def test_what_is_no_picture_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        describe_picture(url)


@pytest.mark.parametrize("codec", ["mjpeg", "png"])
def test_a_picture_that_is_too_large_is_refused(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 80 * 48 // 2)
    url = data_url((0, 0, 0), codec=codec, media_type="image/png" if codec == "png" else "image/jpeg")
    with pytest.raises(ValueError, match="larger"):
        describe_picture(url)
