"""RtmpOutput over TLS: nginx-rtmp behind stunnel, and servers that are not who they should be."""

import asyncio
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import OutputLost, OutputRejected
from bridge.net.tls import Trust, spki_pin
from bridge.outputs.rtmp import RtmpDeadlines, RtmpOutput
from bridge.redact import Secret
from tests.interop import nginx_rtmp, rtmp_media, stunnel
from tests.interop.certificates import make_certificate
from tests.interop.nginx_rtmp import NginxRtmp
from tests.interop.stunnel import Stunnel
from tests.interop.test_rtmp import KEY, Relay, publish, read_flv, recording, server_that

SHORT = RtmpDeadlines(connect_s=3.0, close_s=1.0)
OTHER_PIN = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[NginxRtmp]:
    if reason := nginx_rtmp.why_unavailable() or stunnel.why_unavailable():
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with NginxRtmp(tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    make_certificate(tmp_path / "server.pem")
    return tmp_path / "server.pem"


def output_to(port: int, trust: Trust | None, host: str = "127.0.0.1") -> RtmpOutput:
    return RtmpOutput(f"rtmps://{host}:{port}/live", Secret(KEY), trust=trust, deadlines=SHORT)


async def test_nginx_behind_stunnel_records_every_picture(nginx: NginxRtmp, certificate: Path, tmp_path: Path) -> None:
    with Stunnel(tmp_path, certificate, nginx.rtmp_port) as tunnel:
        await publish(output_to(tunnel.port, Trust(certificate)), rtmp_media.units(3.0))

    packets = read_flv(await recording(nginx, KEY))
    assert len(packets["video"]) == 75
    assert len(packets["audio"]) == sum(unit.codec.kind == "audio" for unit in rtmp_media.units(3.0))


async def test_a_server_with_a_pinned_key_gets_the_broadcast(
    nginx: NginxRtmp, tmp_path: Path, certificate: Path
) -> None:
    pin = spki_pin(make_certificate(certificate))
    with Stunnel(tmp_path, certificate, nginx.rtmp_port) as tunnel:
        await publish(output_to(tunnel.port, Trust(certificate, (OTHER_PIN, pin))), rtmp_media.units(1.0))

    assert len(read_flv(await recording(nginx, KEY))["video"]) == 25


async def test_a_server_with_another_key_than_the_pinned_one_gets_no_byte_of_rtmp(
    nginx: NginxRtmp, tmp_path: Path, certificate: Path
) -> None:
    pin = spki_pin(make_certificate(certificate))
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    async with server_that(listen) as port:
        with Stunnel(tmp_path, certificate, port) as tunnel:
            with pytest.raises(OutputRejected, match="tls_pin_sha256 does not name it") as caught:
                await publish(output_to(tunnel.port, Trust(certificate, (OTHER_PIN,))), rtmp_media.units(1.0))

    assert pin in str(caught.value)
    assert b"".join(received) == b""


async def test_a_server_that_takes_no_tls_newer_than_1_1_is_not_spoken_to(
    nginx: NginxRtmp, tmp_path: Path, certificate: Path
) -> None:
    options = "sslVersionMax = TLSv1.1\nsslVersionMin = TLSv1\nciphers = ALL:@SECLEVEL=0"
    with Stunnel(tmp_path, certificate, nginx.rtmp_port, options) as tunnel:
        with pytest.raises(OutputLost, match="cannot connect"):
            await publish(output_to(tunnel.port, Trust(certificate)), rtmp_media.units(1.0))

    assert nginx.requests == []


@pytest.mark.parametrize(
    "host, days, is_trusted, advice",
    [
        ("127.0.0.1", 1, False, "put its CA's certificate into tls_ca_file"),
        ("127.0.0.1", -1, True, "the server must renew it"),
        ("live.example", 1, True, "write the URL with a name that the certificate is for"),
    ],
)
async def test_a_certificate_that_is_refused_says_what_to_do(
    tmp_path: Path, host: str, days: int, is_trusted: bool, advice: str
) -> None:
    path = tmp_path / "server.pem"
    make_certificate(path, host=host, days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    async with server_that(Relay(0).serve, context) as port:
        with pytest.raises(OutputRejected, match="certificate is refused") as caught:
            await publish(output_to(port, Trust(path) if is_trusted else None), rtmp_media.units(1.0))

    assert advice in str(caught.value)
    assert KEY not in str(caught.value)


async def test_the_name_of_the_url_goes_into_the_handshake(certificate: Path) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda connection, name, _: names.append(name)  # type: ignore[assignment]
    async with server_that(Relay(0).serve, context) as port:
        with pytest.raises(OutputRejected, match="certificate is refused"):
            await publish(output_to(port, Trust(certificate), host="localhost"), rtmp_media.units(1.0))

    assert names[0] == "localhost"


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used_is_the_operators_to_mend(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OutputRejected, match=r"tls_ca_file .*ca\.pem: ") as caught:
        await publish(output_to(9, Trust(path)), rtmp_media.units(1.0))

    assert ("No such file" if content is None else "PEM") in str(caught.value)
