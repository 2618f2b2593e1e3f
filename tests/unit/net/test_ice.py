import ifaddr
import pytest

from bridge.errors import ConfigError
from bridge.net.ice import IceServer, IceSettings, judged
from bridge.net.url_policy import UrlPolicy
from bridge.redact import Secret

SERVICE = IceServer(
    (
        "stun:198.51.100.1:3478",
        "turns:turn.example:443?transport=tcp",
        "turn:turn.example:3478?transport=tcp",
        "turn:turn.example:3478?transport=udp",
    ),
    "user",
    Secret("pass"),
)


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = [
        ifaddr.Adapter("lo", "lo", [ifaddr.IP("127.0.0.1", 8, "lo"), ifaddr.IP(("::1", 0, 0), 128, "lo")]),
        ifaddr.Adapter("eth0", "eth0", [ifaddr.IP("192.0.2.7", 24, "eth0"), ifaddr.IP(("fe80::1", 0, 2), 64, "eth0")]),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: machine)


def test_no_interfaces_leaves_the_choice_to_ice() -> None:
    assert IceSettings().host_addresses() is None


def test_an_interface_stands_for_its_addresses_without_link_local_ones(adapters: None) -> None:
    assert IceSettings(("lo",)).host_addresses() == ["127.0.0.1", "::1"]
    assert IceSettings(("eth0",)).host_addresses() == ["192.0.2.7"]


def test_an_unknown_interface_is_named_with_those_there_are(adapters: None) -> None:
    with pytest.raises(ConfigError, match=r"ice\.interfaces: there is no interface 'eth9', only eth0, lo"):
        IceSettings(("eth9",)).host_addresses()


def test_without_servers_none_is_asked() -> None:
    assert IceSettings().rtc_servers() == []


def test_relays_come_first_and_udp_before_tcp_before_tls() -> None:
    urls = [server.urls for server in IceSettings().rtc_servers([SERVICE])]
    assert urls == [
        "turn:turn.example:3478?transport=udp",
        "turn:turn.example:3478?transport=tcp",
        "turns:turn.example:443?transport=tcp",
        "stun:198.51.100.1:3478",
    ]


def test_credentials_go_with_each_address_of_a_server() -> None:
    servers = IceSettings().rtc_servers([SERVICE])
    assert {(server.username, server.credential) for server in servers} == {("user", "pass")}


def test_the_operators_servers_stand_beside_the_services() -> None:
    settings = IceSettings(servers=(IceServer(("stun:203.0.113.5",)),))
    assert len(settings.rtc_servers([SERVICE])) == 5


@pytest.mark.parametrize(
    "url",
    ["stuns:a.example", "turn:a.example?transport=sctp", "turns:a.example?transport=udp", "http://a", "stun:", ""],
)
def test_addresses_that_cannot_be_used_are_left_out(url: str) -> None:
    assert IceSettings().rtc_servers([IceServer((url,))]) == []


def test_on_loopback_only_servers_on_loopback_are_asked(adapters: None) -> None:
    local = IceServer(("stun:127.0.0.1:3478", "turn:localhost:3478"))
    urls = [server.urls for server in IceSettings(("lo",)).rtc_servers([SERVICE, local])]
    assert urls == ["turn:localhost:3478", "stun:127.0.0.1:3478"]


def test_a_servers_text_hides_its_credential() -> None:
    assert "pass" not in repr(SERVICE)


async def resolve(host: str, port: int) -> list[str]:
    return {
        "turn.example": ["2606:2800:21f::1", "93.184.215.14"],
        "six.example": ["2606:2800:21f::1"],
        "near.example": ["10.0.0.1"],
    }[host]


async def test_servers_of_strangers_are_asked_at_the_address_that_was_judged() -> None:
    urls = ("turn:near.example", "turn:turn.example?transport=tcp", "stun:turn.example:3479")
    (server,) = await judged([IceServer(urls, "user", Secret("pass"))], UrlPolicy(resolve=resolve))
    assert server.urls == ("turn:93.184.215.14:3478?transport=tcp", "stun:93.184.215.14:3479")
    assert (server.username, server.credential) == ("user", Secret("pass"))


async def test_tls_needs_the_name() -> None:
    (server,) = await judged([IceServer(("turns:turn.example:443?transport=tcp",))], UrlPolicy(resolve=resolve))
    assert server.urls == ("turns:turn.example:443?transport=tcp",)


async def test_a_server_without_an_address_that_may_be_asked_is_left_out() -> None:
    assert await judged([IceServer(("turn:near.example",))], UrlPolicy(resolve=resolve)) == []
    six = await judged([IceServer(("turn:six.example",), "user", Secret("pass"))], UrlPolicy(resolve=resolve))
    assert IceSettings().rtc_servers(six) == []


async def test_a_stranger_leads_to_no_neighbour() -> None:
    strange = IceSettings(policy=UrlPolicy(resolve=resolve))
    assert strange.may_reach("93.184.215.14") and not strange.may_reach("10.0.0.7")
    assert IceSettings().may_reach("10.0.0.7")
    named = [IceServer(("stun:10.0.0.7",))]
    assert await strange.trusted(named) == [] and await IceSettings().trusted(named) == named
