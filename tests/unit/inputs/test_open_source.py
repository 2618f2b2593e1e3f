from pathlib import Path

import numpy as np
import pytest

from bridge.config import InputConfig
from bridge.inputs import open_source
from bridge.inputs.file import FileSource
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.track_reception import TrackReception
from tests.unit.inputs.test_file import play, ramp, write_wav


@pytest.mark.parametrize("url", ["file:{dir}/q.wav", "file://{dir}/q.wav", "file:q.wav", "file:./q.wav"])
async def test_file_urls_are_absolute_or_relative_to_the_base(tmp_path: Path, url: str) -> None:
    write_wav(tmp_path / "q.wav", ramp(100))
    source = open_source(
        "question", InputConfig(url=url.format(dir=tmp_path)), tmp_path, UrlPolicy(), IceSettings(), TrackReception
    )
    assert isinstance(source, FileSource)
    assert (source.name, source.is_live) == ("question", False)
    assert np.array_equal(np.concatenate([b.samples for b in await play(source)]), ramp(100)[:, None])


async def test_percent_and_question_mark_are_ordinary_in_a_file_name(tmp_path: Path) -> None:
    write_wav(tmp_path / "what%20now?.wav", ramp(100))
    source = open_source(
        "question", InputConfig(url="file:what%20now?.wav"), tmp_path, UrlPolicy(), IceSettings(), TrackReception
    )
    assert isinstance(source, FileSource)
    assert len(await play(source)) == 1
