import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge.ops import bodies
from tests.unit.ops.fakes import PNG, FakeDaemon, api

JSON = {"content-type": "application/json"}


class Dripping:
    """A body that comes in pieces, without saying how long it is; counts how many were asked for."""

    def __init__(self, piece: bytes, n_pieces: int) -> None:
        self._piece = piece
        self._n_pieces = n_pieces
        self.n_given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.n_given < self._n_pieces:
            self.n_given += 1
            yield self._piece


async def test_a_body_up_to_the_limit_is_read() -> None:
    daemon = FakeDaemon()
    async with api(daemon) as client:
        text = (bodies.MAX_JSON_BYTES - len('{"text": ""}')) * "x"
        answer = await client.post("/v1/sessions/leo/say", content=f'{{"text": "{text}"}}', headers=JSON)
        assert answer.status_code == 204
        picture = PNG.ljust(bodies.MAX_IMAGE_BYTES, b"\0")
        answer = await client.post("/v1/sessions/leo/image", content=picture, headers={"content-type": "image/png"})
        assert answer.status_code == 204
    assert [told[0] for told in daemon.leo.told] == ["say", "image"]


@pytest.mark.parametrize(
    ("path", "media_type", "most_bytes"),
    [
        ("say", "application/json", bodies.MAX_JSON_BYTES),
        ("slate", "application/json; charset=utf-8", bodies.MAX_JSON_BYTES),
        ("say", "text/plain", bodies.MAX_JSON_BYTES),
        ("image", "image/png", bodies.MAX_IMAGE_BYTES),
        ("outputs/x", "application/json", bodies.MAX_JSON_BYTES),
    ],
)
async def test_a_body_beyond_the_limit_is_not_read_to_its_end(path: str, media_type: str, most_bytes: int) -> None:
    daemon = FakeDaemon()
    dripping = Dripping(65_536 * b" ", 1000)
    async with api(daemon) as client:
        method = "PUT" if path.startswith("outputs") else "POST"
        answer = await client.request(
            method, f"/v1/sessions/leo/{path}", content=dripping, headers={"content-type": media_type}
        )
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"the body has more than {most_bytes} bytes"
    assert dripping.n_given <= most_bytes // 65_536 + 1
    assert not daemon.leo.told


async def test_a_short_body_is_read_also_where_nobody_wants_it_so_that_the_connection_lives() -> None:
    dripping = Dripping(b"x", 10)
    async with api(FakeDaemon()) as client:
        answer = await client.post("/v1/sessions/nobody/image", content=dripping, headers={"content-type": "image/png"})
        assert (answer.status_code, dripping.n_given) == (404, 10)
        assert "connection" not in answer.headers
        waiting = Dripping(b"x", 10)
        headers = {"content-type": "image/png", "expect": "100-continue"}
        answer = await client.post("/v1/sessions/nobody/image", content=waiting, headers=headers)
        assert (answer.status_code, waiting.n_given) == (404, 0)
        assert answer.headers["connection"] == "close"


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    dripping = Dripping(b"x", 10)
    async with api(FakeDaemon()) as client:
        answer = await client.post(
            "/v1/sessions/leo/say", content=dripping, headers=JSON | {"content-length": str(bodies.MAX_JSON_BYTES + 1)}
        )
    assert (answer.status_code, dripping.n_given) == (413, 0)


async def test_a_length_that_is_no_number_is_not_believed() -> None:
    async with api(FakeDaemon()) as client:
        answer = await client.post(
            "/v1/sessions/leo/mute", content=b'{"on": true}', headers=JSON | {"content-length": "-1"}
        )
    assert answer.status_code == 204


async def test_a_body_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_TIMEOUT_S", 0.0)
    async with api(FakeDaemon()) as client:
        answer = await client.post("/v1/sessions/leo/say", content=Endless(), headers=JSON)
    assert answer.status_code == 408


class Endless:
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()
