import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog

from bridge import programme as programme_module
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.slate_pictures import SlatePictures
from bridge.programme import Programme
from bridge.timeline.splice import OnAir
from tests.unit.stage import until

PICTURES = SlatePictures(b"slate", (b"slate idr", b"slate p"), 40 * NS_PER_MS)


class Studio:
    """A programme, and what happened to it. `made`: for which decoder configuration a slate was made, from how many."""

    def __init__(self) -> None:
        self.units: list[AccessUnit] = []
        self.states: list[OnAir] = []
        self.made: list[tuple[bytes, int]] = []
        self.keyframe_requests = 0
        self.began_ns = time.monotonic_ns()

    @asynccontextmanager
    async def programme(self, wants_last: bool = False) -> AsyncIterator[Programme]:
        programme = Programme(
            self._make,
            slate_after_s=0.7,
            wants_last=wants_last,
            origin_ns=self.began_ns,
            emit=self.units.append,
            request_keyframe=self._request_keyframe,
            on_change=self.states.append,
            log=structlog.get_logger(),
        )
        running = asyncio.create_task(programme.run())
        try:
            yield programme
        finally:
            running.cancel()
            await asyncio.wait((running,))

    def picture(self, name: bytes = b"live", is_keyframe: bool = True) -> AccessUnit:
        pts_ns = time.monotonic_ns() - self.began_ns
        return AccessUnit(Codec.H264, name, pts_ns, is_keyframe=is_keyframe, codec_config=name if is_keyframe else b"")

    def _make(self, like: AccessUnit | None, last_group: Sequence[AccessUnit]) -> SlatePictures:
        self.made.append((like.codec_config if like else b"", len(last_group)))
        return PICTURES

    def _request_keyframe(self) -> None:
        self.keyframe_requests += 1


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(programme_module, "ASK_EVERY_NS", 0)
    monkeypatch.setattr(programme_module, "UNLIKE_S", 0.01)
    monkeypatch.setattr(programme_module, "SETTLE_S", 0.0)
    return Studio()


async def test_the_slate_goes_on_air_by_itself_when_pictures_stop(studio: Studio) -> None:
    async with studio.programme() as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        await until(lambda: len(studio.units) > 5)
    assert studio.states == [OnAir.LIVE, OnAir.HELD, OnAir.SLATE]
    assert studio.units[1].payload == b"slate idr"


async def test_what_falls_due_while_something_else_is_done_is_done_next(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with studio.programme() as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        await until(lambda: studio.states[-1] is OnAir.SLATE)
        # Two looks at the clock in a row are further apart than two pictures of the slate.
        steps_ns, real_ns = itertools.count(0, 50 * NS_PER_MS), time.monotonic_ns
        monkeypatch.setattr(programme_module.time, "monotonic_ns", lambda: real_ns() + next(steps_ns))
        shown = len(studio.units)
        async with asyncio.timeout(0.9):  # a second is how long it once slept
            await until(lambda: len(studio.units) > shown + 10)


async def test_the_slate_is_made_anew_for_each_decoder_configuration(studio: Studio) -> None:
    async with studio.programme() as programme:
        await until(lambda: studio.made == [(b"", 0)])
        programme.put_on_air(1)
        for name in (b"one", b"one", b"two"):
            programme.put(1, studio.picture(name))
            await until(lambda: len(studio.made) > 1)
        await until(lambda: studio.made[-1] == (b"two", 0))
    assert [like for like, _ in studio.made] == [b"", b"one", b"two"]


async def test_the_last_picture_is_made_from_its_group_once_pictures_stop(studio: Studio) -> None:
    async with studio.programme(wants_last=True) as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        for _ in range(3):
            programme.put(1, studio.picture(is_keyframe=False))
        await until(lambda: (b"live", 4) in studio.made)


async def test_where_keyframes_do_not_come_one_is_asked_for_so_that_the_last_picture_is_of_the_present(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programme_module, "MAX_GROUP", 3)
    async with studio.programme(wants_last=True) as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        before = studio.keyframe_requests
        programme.put(1, studio.picture(is_keyframe=False))
        assert studio.keyframe_requests == before
        for _ in range(5):
            programme.put(1, studio.picture(is_keyframe=False))
        assert studio.keyframe_requests == before + 1


async def test_a_connection_that_is_not_on_air_has_no_part_in_the_slate(studio: Studio) -> None:
    async with studio.programme(wants_last=True) as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        for name, is_keyframe in ((b"two", True), (b"two", False)):
            programme.put(2, studio.picture(name, is_keyframe))
        programme.put(1, studio.picture(is_keyframe=False))
        await until(lambda: (b"live", 2) in studio.made)
    assert b"two" not in [like for like, _ in studio.made]


async def test_the_last_picture_is_one_of_the_connection_that_has_taken_over(studio: Studio) -> None:
    async with studio.programme(wants_last=True) as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        programme.put_on_air(2)
        programme.put(1, studio.picture(is_keyframe=False))
        programme.put(2, studio.picture(b"two", is_keyframe=False))
        for is_keyframe in (True, False, False):
            programme.put(2, studio.picture(b"two", is_keyframe))
        await until(lambda: (b"two", 3) in studio.made)


async def test_a_keyframe_is_asked_for_until_there_is_one(studio: Studio) -> None:
    async with studio.programme() as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture(is_keyframe=False))
        programme.put(1, studio.picture(is_keyframe=False))
        asked = studio.keyframe_requests
        assert asked >= 2
        programme.put(1, studio.picture())
        programme.put(1, studio.picture(is_keyframe=False))
        assert studio.keyframe_requests == asked


async def test_following_ends_when_the_new_connection_is_on_air(studio: Studio) -> None:
    async with studio.programme() as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        following = asyncio.create_task(programme.follow(2))
        await asyncio.sleep(0)
        programme.put(2, studio.picture(is_keyframe=False))
        await asyncio.sleep(0)
        assert not following.done()
        programme.put(2, studio.picture(b"two"))
        await following


async def test_the_operator_s_slate_is_on_air_at_once(studio: Studio) -> None:
    async with studio.programme() as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        await until(lambda: programme.splice.slate is not None)
        programme.show_slate("a break")
        assert programme.splice.state is OnAir.SLATE
        await until(lambda: studio.units[-1].payload.startswith(b"slate"))
        programme.show_slate("")
        programme.put(1, studio.picture())
        assert programme.splice.state is OnAir.LIVE


async def test_the_operator_s_slate_of_the_last_picture_shows_the_last_one(studio: Studio) -> None:
    async with studio.programme(wants_last=True) as programme:
        programme.put_on_air(1)
        programme.put(1, studio.picture())
        await until(lambda: programme.splice.slate is not None)
        for _ in range(5):
            programme.put(1, studio.picture(is_keyframe=False))
        programme.show_slate("a break")
        await until(lambda: programme.splice.state is OnAir.SLATE)
        assert studio.made[-1] == (b"live", 6)
