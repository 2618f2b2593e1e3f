from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.errors import SourceRejected
from bridge.inputs.playlist import PlaylistFile
from bridge.inputs.tone import RATE_HZ as TONE_RATE_HZ
from bridge.inputs.tone import ToneSource
from tests.unit.inputs.test_file import RATE_HZ, joined, play, ramp, write_wav


def write_list(folder: Path, text: str, name: str = "list.m3u") -> Path:
    (folder / "songs").mkdir(exist_ok=True)
    for number in (1, 2, 3):
        write_wav(folder / "songs" / f"é {number}.wav", number * 1_000 + ramp(RATE_HZ))
    path = folder / name
    path.write_text(text)
    return path


def playlist(path: Path, *, loop: bool = False, start_s: float = 0.0) -> PlaylistFile:
    return PlaylistFile("radio", path, lambda url, start_s: ToneSource(url, None), loop=loop, start_s=start_s)


M3U = "#EXTM3U\n#EXTINF:1,One\nsongs/é 1.wav\n\nsongs/é 2.wav\r\nsongs/é 3.wav\n"


async def test_entries_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    blocks = await play(playlist(write_list(tmp_path, M3U)))
    expected = np.concatenate([number * 1_000 + ramp(RATE_HZ) for number in (1, 2, 3)])
    assert np.array_equal(joined(blocks)[:, 0], expected)
    starts = np.cumsum([0] + [len(block.samples) for block in blocks])[:-1]
    assert [block.pts_ns for block in blocks] == [int(start) * 62_500 for start in starts]


async def test_loop_and_start_count_over_the_whole_list(tmp_path: Path) -> None:
    path = write_list(tmp_path, M3U)
    blocks = await play(playlist(path, loop=True, start_s=1.25), limit_samples=3 * RATE_HZ)
    whole = np.concatenate([number * 1_000 + ramp(RATE_HZ) for number in (1, 2, 3)] * 2)
    n_before = round(1.25 * RATE_HZ)
    assert np.array_equal(joined(blocks)[: 3 * RATE_HZ, 0], whole[n_before : n_before + 3 * RATE_HZ])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u", "gone.wav\nsongs/é 2.wav\nrtsp://127.0.0.1/x\nlist.m3u\n"),
        ("list.pls", "[playlist]\nFile2=songs/é 2.wav\nfile1=gone.wav\nTitle1=Gone\nfile3=list.pls\nVersion=2\n"),
    ],
)
async def test_dead_entry_is_skipped_with_a_warning(tmp_path: Path, name: str, text: str) -> None:
    with capture_logs() as logs:
        blocks = await play(playlist(write_list(tmp_path, text, name)))
    assert np.array_equal(joined(blocks)[:, 0], 2_000 + ramp(RATE_HZ))
    assert {entry["event"] for entry in logs} == {"playlist_entry_skipped"}
    assert "gone.wav cannot be read (No such file or directory)" in logs[0]["error"]


@pytest.mark.parametrize("text", ["", "#EXTM3U\n", "gone.wav\nlist.m3u\n"])
async def test_list_of_nothing_ends_at_once_even_if_looped(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceRejected, match=r"input radio: .*list\.m3u holds no entry that can be played"):
        await play(playlist(write_list(tmp_path, text), loop=True))


async def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="cannot be read"):
        await play(playlist(tmp_path / "gone.m3u"))
    (tmp_path / "big.m3u").write_bytes(bytes(2 << 20))
    with pytest.raises(SourceRejected, match="more than 1 MiB"):
        await play(playlist(tmp_path / "big.m3u"))


async def test_file_may_name_stations(tmp_path: Path) -> None:
    path = write_list(tmp_path, "https://radio.example.com/live\n")
    assert not joined(await play(playlist(path), limit_samples=TONE_RATE_HZ)).any()
