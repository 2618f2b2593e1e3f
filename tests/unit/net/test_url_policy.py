import asyncio
import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ConfigError
from bridge.net import url_policy
from bridge.net.url_policy import PinnedUrl, Resolve, Target, UrlPolicy, UrlRefused, parse_target, why_not_public

HTTP = frozenset({"http", "https"})
RTMP = frozenset({"rtmp", "rtmps"})
PUBLIC = "93.184.215.14"


def names(**addresses: str) -> Resolve:
    """A resolver that knows these names, their dots written as `_`."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        found = addresses.get(host.replace(".", "_"))
        if found is None:
            raise OSError("no such name")
        return found.split()

    return resolve


async def check(
    url: str, *, allow: Sequence[str] = (), schemes: frozenset[str] = HTTP, resolve: Resolve | None = None
) -> PinnedUrl:
    return await UrlPolicy(allow, resolve=resolve or names()).check(url, schemes=schemes)


async def test_a_name_is_pinned_to_the_addresses_that_it_has_now() -> None:
    resolve = names(studio_example_com=f"{PUBLIC} 2606:2800:21f::1")
    pinned = await check("https://studio.example.com:8443/whip?x=1", resolve=resolve)
    assert pinned.addresses == (PUBLIC, "2606:2800:21f::1")
    assert (pinned.scheme, pinned.host, pinned.port) == ("https", "studio.example.com", 8443)


async def test_a_name_is_looked_up_once() -> None:
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return [PUBLIC]

    await check("rtmps://live.example.com/app/key", schemes=RTMP, resolve=resolve)
    assert asked == [("live.example.com", 443)]


async def test_a_url_is_not_shown() -> None:
    pinned = await check(f"rtmp://{PUBLIC}/app/live_canary", schemes=RTMP)
    assert "canary" not in repr(pinned)


@pytest.mark.parametrize("second", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_one_bad_address_among_good_ones_is_enough(second: str) -> None:
    with pytest.raises(UrlRefused, match=r"mixed\.example\.com has the address"):
        await check("http://mixed.example.com/", resolve=names(mixed_example_com=f"{PUBLIC} {second}"))


# ---------------------------------------------------------------------------------------------- spellings of loopback

LOOPBACK = [
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "127.0.0.1."),
    *("2130706433", "0x7f000001", "0X7F000001", "017700000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "0"),
    *("127.0.0.0x1", "0x7f.1", "127.0.0.1.0x", "00000127.0.0.1", "127.0.0.01", "127.000.000.001"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]"),
    *("[::ffff:0:127.0.0.1]", "[64:ff9b:1::7f00:1]", "[::1%25lo]", "[::1%lo]", "[::1%251]", "::1", "[::1", "::1]"),
    *("127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "１２７.0.0.1", "①②⑦.0.0.1", "ⓛocalhost", "127.0.0.1\u00ad"),
    *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.1%00.example.com", "127.0.0.1%23@example.com:80@127.0.0.1"),
    *("example.com@127.0.0.1", "example.com:80@127.0.0.1", "@127.0.0.1", ":@127.0.0.1"),
    *("example.com\\@127.0.0.1", "127.0.0.1\\@example.com", "\\127.0.0.1", "127.0.0.1\texample.com"),
    *("127.0.0.1\n", "127.0.0.1\r\nHost: x", " 127.0.0.1", "", ":80", "[]", "[127.0.0.1]", "[v1.x]", "-", ".", "a..b"),
]


@pytest.mark.parametrize("host", LOOPBACK, ids=ascii)
async def test_no_spelling_of_loopback_gets_through(host: str) -> None:
    async def as_the_system_does(name: str, port: int) -> Sequence[str]:
        pytest.fail(f"{name!r} was looked up")

    with pytest.raises(UrlRefused):
        await check(f"http://{host}/", resolve=as_the_system_does)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "localhost.localdomain", "ip6-localhost", "127.0.0.1.nip.io"]
)
async def test_no_name_of_loopback_gets_through(host: str) -> None:
    async def resolve(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with pytest.raises(UrlRefused, match="this machine"):
        await check(f"http://{host}/", resolve=resolve)


v4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
loopback = st.integers(0x7F00_0000, 0x7FFF_FFFF).map(ipaddress.IPv4Address)


def _spellings(address: ipaddress.IPv4Address) -> list[str]:
    number, octets = int(address), address.packed
    return [
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(f"0{octet:o}" for octet in octets),
        ".".join(map(hex, octets)),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
        f"{address}.",
        *(f"[{prefix}{address}]" for prefix in ("::", "::ffff:", "::ffff:0:", "64:ff9b::", "64:ff9b:1::")),
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
        f"user:pass@{address}",
    ]


@given(loopback, st.data())
def test_no_address_of_loopback_gets_through_in_any_notation(
    address: ipaddress.IPv4Address, data: st.DataObject
) -> None:
    host = data.draw(st.sampled_from(_spellings(address)))
    port = data.draw(st.sampled_from(["", ":80", ":8080", ":00080"]))
    with pytest.raises(UrlRefused):
        asyncio.run(check(f"http://{host}{port}/x"))


@given(v4, st.sampled_from(["::ffff:", "64:ff9b::", "64:ff9b:1::", "::ffff:0:"]))
def test_an_address_in_disguise_has_to_be_allowed_in_both_shapes(address: ipaddress.IPv4Address, prefix: str) -> None:
    disguised = ipaddress.ip_address(f"{prefix}{address}")
    assert why_not_public(disguised)
    allowed = [ipaddress.ip_network("::/0")]
    assert bool(why_not_public(disguised, allowed)) == bool(why_not_public(address))


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_what_is_let_through_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not why_not_public(address):
        assert address.is_global and not address.is_multicast


@given(st.text(max_size=80) | st.text(max_size=40).map(lambda text: f"http://{text}"))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_target(text, HTTP)
    except UrlRefused:
        return
    assert text.lower().startswith(("http://", "https://")) and target.host and 0 < target.port < 65_536


# ---------------------------------------------------------------------------------------------- kinds of address


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fd12::1", "private"),
        ("fec0::1", "private"),
        ("100.64.0.1", "shared"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("198.18.0.1", "reserved"),
        ("2001:db8::1", "reserved"),
        ("2001::1", "disguise"),
        ("2001:10::1", "no public host"),
        ("5000::1", "no public host"),
        ("169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("2002:a9fe:a9fe::", "metadata"),
    ],
)
def test_what_is_no_public_host_is_called_by_its_kind(address: str, kind: str) -> None:
    assert kind in why_not_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", PUBLIC, "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_a_public_address_is_let_through(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address)) == ""


async def test_an_interface_does_not_hide_a_link_local_address() -> None:
    with pytest.raises(UrlRefused, match="link-local"):
        await check("http://near.example.com/", resolve=names(near_example_com="fe80::1%eth0"))


# ---------------------------------------------------------------------------------------------- what the file allows


@pytest.mark.parametrize("entry", ["192.168.7.0/24", "192.168.7.9", "192.168.7.9/24", "studio.lan", "STUDIO.LAN."])
async def test_the_file_can_let_a_network_an_address_or_a_name_through(entry: str) -> None:
    pinned = await check("http://studio.lan:8889/x", allow=[entry], resolve=names(studio_lan="192.168.7.9"))
    assert pinned.addresses == ("192.168.7.9",)


async def test_a_name_that_is_allowed_allows_no_other() -> None:
    resolve = names(studio_lan="192.168.7.9", other_lan="192.168.7.9")
    with pytest.raises(UrlRefused, match=r"url_policy\.allow"):
        await check("http://other.lan/", allow=["studio.lan"], resolve=resolve)


async def test_loopback_can_be_allowed_by_address() -> None:
    assert (await check("http://[::1]:8889/", allow=["[::1]"])).addresses == ("::1",)
    assert (await check("http://127.0.0.1:8889/", allow=["127.0.0.0/8"])).addresses == ("127.0.0.1",)


@pytest.mark.parametrize("allow", [["0.0.0.0/0", "::/0"], ["metadata.example.com"]])
@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
async def test_metadata_is_never_let_through(allow: list[str], address: str) -> None:
    resolve = names(metadata_example_com=address)
    with pytest.raises(UrlRefused, match=r"a cloud's metadata service$"):
        await check("http://metadata.example.com/latest", allow=allow, resolve=resolve)


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "127.1", "0x7f.1", "two words", "http://host", "*", "-a", "a b"])
def test_an_entry_that_is_neither_network_nor_name_is_the_operators_mistake(entry: str) -> None:
    with pytest.raises(ConfigError):
        UrlPolicy([entry])


# ---------------------------------------------------------------------------------------------- schemes and ports


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x/", "rtmp://x/a", "http:x", "http:/x", "//x", "x", ""]
)
def test_only_the_schemes_that_are_asked_for_are_let_through(url: str) -> None:
    with pytest.raises(UrlRefused):
        parse_target(url, HTTP)


@pytest.mark.parametrize("port", [0, 22, 25, 53, 445, 1023, 2049, 6000, 6667, 65_536, 99_999])
def test_a_port_of_something_else_is_refused(port: int) -> None:
    with pytest.raises(UrlRefused, match="port"):
        parse_target(f"http://example.com:{port}/", HTTP)


@pytest.mark.parametrize("port", ["x", "-1", "+80", "８０", "80:80", "1e3", "123456"])
def test_a_port_that_is_no_number_is_refused(port: str) -> None:
    with pytest.raises(UrlRefused):
        parse_target(f"http://example.com:{port}/", HTTP)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("rtmp://live.example.com/app/key", Target("rtmp", "live.example.com", 1935)),
        ("RTMPS://Live.Example.Com./app/key@x?y", Target("rtmps", "live.example.com", 443)),
        ("whip+https://user:p%40ss@[2606::1]:8443?x", Target("whip+https", "2606::1", 8443)),
        ("turn:turn.example.com?transport=udp", Target("turn", "turn.example.com", 3478)),
        ("turns:turn.example.com:443", Target("turns", "turn.example.com", 443)),
        ("http://example.com:#@127.0.0.1", None),
        ("http://xn--bcher-kva.example#x", Target("http", "xn--bcher-kva.example", 80)),
    ],
)
def test_a_url_leads_where_everybody_reads_it_to(url: str, target: Target | None) -> None:
    schemes = frozenset(url_policy.DEFAULT_PORTS)
    if target is None:
        with pytest.raises(UrlRefused):
            parse_target(url, schemes)
    else:
        assert parse_target(url, schemes) == target


def test_a_url_without_an_end_is_refused() -> None:
    with pytest.raises(UrlRefused, match="characters"):
        parse_target("http://example.com/" + 5000 * "a", HTTP)


# ---------------------------------------------------------------------------------------------- resolving


async def test_a_name_without_an_address_is_no_refusal() -> None:
    with pytest.raises(OSError, match="no such name"):
        await check("http://missing.example.com/")
    with pytest.raises(OSError, match="no address"):
        await check("http://empty.example.com/", resolve=names(empty_example_com=""))


async def test_a_resolver_that_is_silent_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(url_policy, "RESOLVE_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError):
        await check("http://slow.example.com/", resolve=silent)


async def test_the_systems_resolver_is_asked_by_default() -> None:
    assert "127.0.0.1" in (await UrlPolicy(["127.0.0.0/8", "::1"]).check("http://localhost/", schemes=HTTP)).addresses
