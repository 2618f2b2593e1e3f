"""What configuration models share: their kind, addresses, URLs, names, and a server that several of them may list."""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret, read_file
from bridge.errors import ConfigError
from bridge.media.picture_format import PictureSize
from bridge.redact import Secret


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class Address(NamedTuple):
    """Where to listen. Port 0: any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_private(self) -> bool:
        """Whether nobody reaches it but from this machine or its private network."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.is_loopback
        return address.is_private and not address.is_unspecified


_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):(\d{1,5})")


def parse_address(value: Any) -> Address:
    """HOST:PORT, an IPv6 host in brackets. Raises ValueError."""
    if isinstance(value, Address):
        return value
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[3]) > 65_535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return Address(match[1] or match[2], int(match[3]))


def _check_address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("must be an IP address, such as 203.0.113.7") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError("is no address of one machine")
    return str(address)


def _parse_ports(value: Any) -> range:
    if isinstance(value, range):
        return value
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value) if isinstance(value, str) else None
    if not match or not 1024 <= int(match[1]) <= int(match[2]) <= 65_535:
        raise ValueError("must be FIRST-LAST, such as 50000-50100, within 1024 and 65535")
    return range(int(match[1]), int(match[2]) + 1)


def _parse_bitrate(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)k", value) if isinstance(value, str) else None
    return int(match[1]) * 1000 if match else value


def _parse_size(value: Any) -> Any:
    if isinstance(value, PictureSize):
        return value
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", value) if isinstance(value, str) else None
    size = PictureSize(int(match[1]), int(match[2])) if match else None
    if size is None or any(side % 2 or not _LEAST_SIDE_PX <= side <= _MOST_SIDE_PX for side in size):
        raise ValueError(f"must be WIDTHxHEIGHT, both even, from {_LEAST_SIDE_PX} to {_MOST_SIDE_PX}")
    return size


def _parse_url(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise ValueError("must be a URL")
    return Secret.url(value)


def _read_url(value: Any) -> Secret:
    return value if isinstance(value, Secret) else _parse_url(read_file(value).reveal())


def check_host(url: str) -> None:
    """Raises ValueError, which does not repeat the URL, unless it names a host, and a port that can be one."""
    try:
        parts = urlsplit(url)
        has_host = parts.port != 0 and bool(parts.hostname)
        (parts.hostname or "").encode("idna")  # what the resolver will do: labels of 1 to 63 characters
    except ValueError:
        raise ValueError("has a malformed host or port") from None
    if not has_host:
        raise ValueError("names no host, or port 0")


def _check_web(url: Secret) -> Secret:
    if not re.match(r"https?://[^/]", url.reveal()):
        raise ValueError("must be https://HOST/PATH or http://HOST/PATH")
    check_host(url.reveal())
    return url


def _check_base(url: Secret) -> Secret:
    if re.search("[?#]", url.reveal()):
        raise ValueError("takes no query (?…) and no fragment (#…): paths are added to it; a key is given by itself")
    return url


def _check_pin(pin: str) -> str:
    try:
        is_sha256 = len(base64.b64decode(pin, validate=True)) == hashlib.sha256().digest_size
    except ValueError:
        is_sha256 = False
    if not is_sha256:
        raise ValueError("is no SHA-256 in base64, 44 characters")
    return pin


Listen = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^.+:\d{1,5}$"}),
]
IpAddress = Annotated[str, AfterValidator(_check_address)]
PortRange = Annotated[
    range,
    PlainValidator(_parse_ports),
    PlainSerializer(lambda ports: f"{ports[0]}-{ports[-1]}"),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,5}-\d{1,5}$"}),
]
Bitrate = Annotated[
    int,
    BeforeValidator(_parse_bitrate, json_schema_input_type=int | Annotated[str, Field(pattern=r"^\d+k$")]),
    Field(ge=32_000, le=320_000),
]
# Of pictures: less is not seen, and 4:2:0 has even sides; more takes more than one core to encode.
_LEAST_SIDE_PX, _MOST_SIDE_PX = 64, 3840
VideoBitrate = Annotated[
    int,
    BeforeValidator(_parse_bitrate, json_schema_input_type=int | Annotated[str, Field(pattern=r"^\d+k$")]),
    Field(ge=100_000, le=50_000_000),
]
Size = Annotated[
    PictureSize,
    PlainValidator(_parse_size),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{2,4}x\d{2,4}$"}),
]
Url = Annotated[Secret, BeforeValidator(_parse_url), WithJsonSchema({"type": "string", "format": "uri"})]
# Of an HTTP server, as it stands; and of a REST interface, which has paths of its own.
WebUrl = Annotated[Url, AfterValidator(_check_web)]
BaseUrl = Annotated[WebUrl, AfterValidator(_check_base)]
SpkiPin = Annotated[str, AfterValidator(_check_pin)]
UrlFile = Annotated[Secret, BeforeValidator(_read_url), WithJsonSchema({"type": "string", "format": "path"})]
WebUrlFile = Annotated[UrlFile, AfterValidator(_check_web)]
# A name stands in metrics, logs, file names and HTTP paths, so it is a DNS label (RFC 1123 §2.1).
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


def one_of(model: BaseModel, *keys: str, required: bool) -> Secret | None:
    """The value of the only key that is set. Raises ValueError."""
    present = [key for key in keys if getattr(model, key) is not None]
    if len(present) > 1:
        raise ValueError(f"{' and '.join(present)} exclude each other")
    if not present and required:
        raise ValueError(f"one of {', '.join(keys)} is needed")
    return getattr(model, present[0]) if present else None


def apply(rule: Callable[..., object], *arguments: object) -> None:
    """Apply a rule that raises ConfigError. Raises ValueError, to which the model adds file, line and key."""
    try:
        rule(*arguments)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def shown_schemes(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes)


class IceServer(Model):
    """A STUN or TURN server (RFC 7064, RFC 7065)."""

    urls: tuple[Annotated[str, Field(pattern=r"^(stun|turn)s?:[^\s/]+$")], ...] = Field(min_length=1)
    username: str | None = None
    credential: LiteralSecret | None = None
    credential_file: FileSecret | None = None
    credential_env: EnvSecret | None = None
    credential_credential: CredentialSecret | None = None

    @field_validator("urls", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(url.startswith("turn") for url in self.urls) and not (self.username and self.password):
            raise ValueError("a TURN server needs username and credential")
        return self

    @property
    def password(self) -> Secret | None:
        keys = ("credential", "credential_file", "credential_env", "credential_credential")
        return one_of(self, *keys, required=False)
