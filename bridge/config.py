"""The configuration: what an operator may set, with units, ranges and defaults.

Models are frozen and refuse unknown keys. `bridge.config_file` reads them from YAML; `config/bridge.example.yaml`
explains every key to operators. Relative paths are relative to the working directory, those in `file:` URLs to
`storage.dir`.
"""

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret, read_file
from bridge.errors import ConfigError
from bridge.media.recording_name import check_is_below, check_name
from bridge.protocols import navtalk, rtmp_address, whip
from bridge.redact import HARMLESS_QUERY, MASK, Secret, remember

NAVTALK_URL = "wss://transfer.navtalk.ai/wss/v2/realtime-chat"

INPUT_SCHEMES = ("file",)
OUTPUT_SCHEMES = ("rtmp", "rtmps", *whip.SCHEMES, "file")


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------- kinds of value


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


_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):(\d{1,5})")


def parse_address(value: Any) -> Address:
    """HOST:PORT, an IPv6 host in brackets. Raises ValueError."""
    if isinstance(value, Address):
        return value
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[3]) > 65_535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return Address(match[1] or match[2], int(match[3]))


def _parse_bitrate(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)k", value) if isinstance(value, str) else None
    return int(match[1]) * 1000 if match else value


def _parse_url(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise ValueError("must be a URL")
    return Secret.url(value)


def _read_url(value: Any) -> Secret:
    return value if isinstance(value, Secret) else _parse_url(read_file(value).reveal())


def _check_host(url: str) -> None:
    """Raises ValueError, which does not repeat the URL, unless it names a host, and a port that can be one."""
    try:
        parts = urlsplit(url)
        has_host = parts.port != 0 and bool(parts.hostname)
        (parts.hostname or "").encode("idna")  # what the resolver will do: labels of 1 to 63 characters
    except ValueError:
        raise ValueError("has a malformed host or port") from None
    if not has_host:
        raise ValueError("names no host, or port 0")


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
Bitrate = Annotated[
    int,
    BeforeValidator(_parse_bitrate, json_schema_input_type=int | Annotated[str, Field(pattern=r"^\d+k$")]),
    Field(ge=32_000, le=320_000),
]
Url = Annotated[Secret, BeforeValidator(_parse_url), WithJsonSchema({"type": "string", "format": "uri"})]
SpkiPin = Annotated[str, AfterValidator(_check_pin)]
UrlFile = Annotated[Secret, BeforeValidator(_read_url), WithJsonSchema({"type": "string", "format": "path"})]
# A name stands in metrics, logs, file names and HTTP paths, so it is a DNS label (RFC 1123 §2.1).
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


def _one_of(model: BaseModel, *keys: str, required: bool) -> Secret | None:
    """The value of the only key that is set. Raises ValueError."""
    present = [key for key in keys if getattr(model, key) is not None]
    if len(present) > 1:
        raise ValueError(f"{' and '.join(present)} exclude each other")
    if not present and required:
        raise ValueError(f"one of {', '.join(keys)} is needed")
    return getattr(model, present[0]) if present else None


# ---------------------------------------------------------------------------------------------- the daemon


Scope = Literal["read", "control", "ingest", "view"]


class TokenConfig(Model):
    """A token that opens the API (RFC 6750).

    file    holds it: 16 characters or more.
    scopes  read: what only looks, and /metrics.  control: what changes anything.  ingest, view: sending media in, and
            playing it.
    """

    file: FileSecret
    scopes: tuple[Scope, ...] = Field(min_length=1)

    @field_validator("file")
    @classmethod
    def _is_a_token(cls, token: Secret) -> Secret:
        if not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,512}=*", token.reveal()):
            raise ValueError(
                f"{token} holds no token: 16 to 512 characters of A-Z a-z 0-9 . _ ~ + / -, and = at the end"
            )
        return token


class TlsConfig(Model):
    """Certificate chain and private key, as PEM files."""

    cert_file: Path
    key_file: Path


class HttpConfig(Model):
    """allowed_hosts: names that the Host header may have, and the hosts that a browser's pages may come from."""

    listen: Listen = Address("127.0.0.1", 8080)
    tokens: tuple[TokenConfig, ...] = ()
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    tls: TlsConfig | None = None

    @field_validator("tokens")
    @classmethod
    def _tokens_differ(cls, tokens: tuple[TokenConfig, ...]) -> tuple[TokenConfig, ...]:
        if len({token.file for token in tokens}) < len(tokens):
            raise ValueError("two files hold the same token: give it all its scopes in one place")
        return tokens

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if not self.listen.is_loopback and not self.tokens:
            raise ValueError("tokens are needed where listen is no loopback address; see also metrics.listen")
        return self


class MetricsConfig(Model):
    """listen: an address for `/metrics` alone, which may be public. None: it is served on `http.listen`."""

    listen: Listen | None = None


def _check_allowed(entry: str) -> str:
    try:
        ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if not re.fullmatch(r"([\w-]+\.)*[\w-]*[A-Za-z_-][\w-]*\.?", entry, re.ASCII):
            raise ValueError(f"{entry} is neither a network such as 192.168.1.0/24 nor the name of a host") from None
    return entry


class UrlPolicyConfig(Model):
    """allow: networks, addresses and hosts that URLs of strangers may lead to although they are not public."""

    allow: tuple[Annotated[str, AfterValidator(_check_allowed)], ...] = ()


class LogConfig(Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class StorageConfig(Model):
    """dir: where `file:` URLs start.  min_free: below this much free space recordings end, in bytes."""

    dir: Path = Path("recordings")
    min_free: ByteSize = Field(default=ByteSize(2**30), ge=0)


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
        return _one_of(self, *keys, required=False)


class IceConfig(Model):
    """interfaces: network interfaces to gather candidates on; none: all but loopback.  servers: STUN and TURN, used
    besides those that the avatar service names."""

    interfaces: tuple[str, ...] = ()
    servers: tuple[IceServer, ...] = ()


# ---------------------------------------------------------------------------------------------- a session


class ToolConfig(Model):
    """A function that the avatar's model may call, as OpenAI's API describes one.

    parameters  JSON Schema of its arguments.
    default     the answer to a call that nobody has answered in time; None: the avatar's `tool_default`.
    """

    type: Literal["function"] = "function"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    default: str | None = None

    @property
    def function(self) -> dict[str, Any]:
        """What the service is told of it."""
        return self.model_dump(exclude={"default"})


# What an operator's own message must have room for, by the name of the message.
_SHAPE_VALUES = {"input_text": "{text}", "input_image": "{image}"}


class AvatarConfig(Model):
    """An avatar of a service. Keys that are None are not sent: the service's console decides.

    role            conversation: the avatar answers what it hears.  speak: it says what it is sent.
    tools           none: as the service's console has them.
    tool_default    the answer to a tool call that nobody has answered after `tool_deadline_s`.
    history_file    what was said before, read at the start and appended to; see `bridge.history`.
    ice_servers     replaces the list that the service sends.
    idle_audio      what flows while no input speaks; a service's video stalls without audio.
    max_session_s   how long the service lets a session last: the next one takes over before. None: no limit.
    max_starts_per_hour  sessions that the service may be asked to start in any hour: a guard against bills.
    shapes          messages whose shape the service does not document, in JSON's terms: "{text}", "{image}" (a data
                    URL) and "{reply}" (0 or 1) stand for their values. None: as `protocols.navtalk_json` infers it.
    """

    service: Literal["navtalk"] = "navtalk"
    url: Url = Secret.url(NAVTALK_URL)
    license: LiteralSecret | None = None
    license_file: FileSecret | None = None
    license_env: EnvSecret | None = None
    license_credential: CredentialSecret | None = None
    name: str | None = Field(default=None, min_length=1)
    avatar_id: str | None = Field(default=None, min_length=1)
    role: Literal["conversation", "speak"] = "conversation"
    voice: str | None = None
    prompt: str | None = None
    query: dict[str, str] = Field(default_factory=dict, repr=False)
    tools: tuple[ToolConfig, ...] = ()
    tool_default: str = Field(default="No answer is available at the moment.", max_length=65_536)
    tool_deadline_s: float = Field(default=10.0, gt=0.0, le=600.0)
    history_file: Path | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    idle_audio: Literal["silence", "none"] = "silence"
    max_session_s: float | None = Field(default=None, ge=30.0)
    max_starts_per_hour: int = Field(default=60, ge=1)
    shapes: dict[Literal["input_text", "input_image"], dict[str, Any]] = Field(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _is_websocket(cls, url: Secret) -> Secret:
        if not re.match(r"wss?://[^/]", url.reveal()):
            raise ValueError("must be wss://HOST/PATH or ws://HOST/PATH")
        _check_host(url.reveal())
        # Basic authentication (RFC 7617 §2) has no way to write one.
        if ":" in unquote(urlsplit(url.reveal()).username or ""):
            raise ValueError("holds a user name with a colon (%3A), which no server could tell from the password")
        return url

    @field_validator("query")
    @classmethod
    def _remember_values(cls, query: dict[str, str]) -> dict[str, str]:
        for name, value in query.items():
            if name not in HARMLESS_QUERY:
                remember(value)
        return query

    @field_validator("tools")
    @classmethod
    def _names_differ(cls, tools: tuple[ToolConfig, ...]) -> tuple[ToolConfig, ...]:
        names = [tool.name for tool in tools]
        if len(set(names)) < len(names):
            raise ValueError(f"each tool needs a name of its own, not {', '.join(names)}")
        return tools

    @field_validator("shapes")
    @classmethod
    def _have_room(cls, shapes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, shape in shapes.items():
            if json.dumps(_SHAPE_VALUES[name]) not in json.dumps(shape) or not isinstance(shape.get("type"), str):
                raise ValueError(f'{name} needs a "type", and the value "{_SHAPE_VALUES[name]}" somewhere')
        return shapes

    @model_validator(mode="after")
    def _check(self) -> Self:
        _one_of(self, *self._LICENSE_KEYS, required=True)
        if self.name is None and self.avatar_id is None:
            raise ValueError("name or avatar_id is needed")
        return self

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.role == "speak":
            if unused := [key for key in ("tools", "history_file", "shapes") if getattr(self, key)]:
                raise ValueError(f"{', '.join(unused)}: of no use to the role speak, which has no model behind it")
            return self
        asked = navtalk.query_of(self.url.reveal(), self.query)
        for name, value in (navtalk.TRANSPARENCY, navtalk.AUDIO_BACK):
            if asked.get(name) == value:
                raise ValueError(f"{name}={value} asks for a mirror, which does not converse: it needs role: speak")
        return self

    _LICENSE_KEYS = ("license", "license_file", "license_env", "license_credential")

    @property
    def license_key(self) -> Secret:
        key = _one_of(self, *self._LICENSE_KEYS, required=True)
        assert key is not None
        return key

    @field_serializer("query")
    def _mask_query(self, query: dict[str, str]) -> dict[str, str]:
        return {name: value if name in HARMLESS_QUERY else MASK for name, value in query.items()}


class InputConfig(Model):
    """url: `file:PATH` of anything FFmpeg decodes.  gain_db: -60 to 40."""

    url: Url
    loop: bool = False
    gain_db: float = Field(default=0.0, ge=-60.0, le=40.0)

    @field_validator("url")
    @classmethod
    def _is_supported(cls, url: Secret) -> Secret:
        scheme, _, rest = url.reveal().partition(":")
        if scheme not in INPUT_SCHEMES:
            raise ValueError(f"{scheme}: is no input of this version; there is {_schemes(INPUT_SCHEMES)}")
        if not rest:
            raise ValueError("names no file")
        return url


class OutputConfig(Model):
    """One place to publish to.

    url            rtmp://HOST/APP[/KEY], rtmps: likewise, whip+https://HOST/PATH, whip+http: likewise,
                   file:NAME.(mp4|mkv|flv|ts); the name may hold `{start:FORMAT}`, the start in UTC as strftime
                   prints it.
    url_file       a file that holds the URL.
    stream_key     the part of an RTMP URL that is a secret.
    token          what a WHIP server knows us by (RFC 6750).
    ice_servers    of a WHIP output, replaces the general list.
    keyframe_s     how far keyframes may lie apart; the avatar service is asked for one that often.
    audio_bitrate  of AAC, bits per second; "128k" is 128000.
    autostart      it publishes from the session's start on; otherwise once the operator starts it.
    backup_url     of an RTMP output: tried in turn with `url` after each loss, with the same stream key.
    tls_ca_file    of an RTMPS output: the certificates (PEM) that its server's may be signed by; None: the system's.
    tls_pin_sha256 of an RTMPS output: SHA-256 of public keys (SPKI, as in RFC 7469) in base64, one of which its server
                   must have besides a valid certificate; none: any.
    """

    url: Url | None = None
    url_file: UrlFile | None = None
    stream_key: LiteralSecret | None = None
    stream_key_file: FileSecret | None = None
    stream_key_env: EnvSecret | None = None
    stream_key_credential: CredentialSecret | None = None
    token: LiteralSecret | None = None
    token_file: FileSecret | None = None
    token_env: EnvSecret | None = None
    token_credential: CredentialSecret | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    keyframe_s: float = Field(default=2.0, ge=0.5, le=60.0)
    audio_bitrate: Bitrate = 128_000
    autostart: bool = True
    backup_url: Url | None = None
    backup_url_file: UrlFile | None = None
    tls_ca_file: Path | None = None
    tls_pin_sha256: tuple[SpkiPin, ...] = ()

    @field_validator("url", "url_file", "backup_url", "backup_url_file")
    @classmethod
    def _is_supported(cls, url: Secret | None) -> Secret | None:
        if url is None:
            return None
        scheme, _, rest = url.reveal().partition(":")
        if scheme not in OUTPUT_SCHEMES:
            raise ValueError(f"{scheme}: is no output of this version; there is {_schemes(OUTPUT_SCHEMES)}")
        if scheme == "file":
            _apply(check_name, rest)
            return url
        if scheme in whip.SCHEMES:
            _apply(whip.parse_url, url.reveal())
            _check_host(url.reveal())
            return url
        if not re.fullmatch(r"//[^/]+/[^/].*", rest):
            raise ValueError(f"must be {scheme}://HOST/APP, with the stream key behind it or in stream_key_file")
        _check_host(url.reveal())
        # Whether a key is missing is seen when all keys are read.
        _apply(rtmp_address.parse_url, url.reveal(), "any")
        return url

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_whip:
            _apply(whip.parse_url, self.address.reveal(), self.bearer.reveal() if self.bearer else None)
        elif self.bearer is not None or self.ice_servers is not None:
            raise ValueError("token and ice_servers are for whip+https: and whip+http: alone")
        self._check_rtmp()
        return self

    def _check_rtmp(self) -> None:
        schemes = {address.reveal().partition(":")[0] for address in self.addresses}
        if (self.tls_ca_file or self.tls_pin_sha256) and "rtmps" not in schemes:
            raise ValueError("tls_ca_file and tls_pin_sha256 are for rtmps: alone")
        if schemes <= {"rtmp", "rtmps"}:
            for address in self.addresses:
                _apply(rtmp_address.parse_url, address.reveal(), self.key.reveal() if self.key else None)
        elif len(self.addresses) > 1:
            raise ValueError("a backup_url is for rtmp: and rtmps: alone, and is one of them itself")
        elif self.key is not None:
            raise ValueError("a WHIP server has a token, no stream key" if self.is_whip else "a file has no stream key")

    @property
    def is_whip(self) -> bool:
        return self.scheme in whip.SCHEMES

    @property
    def scheme(self) -> str:
        return self.address.reveal().partition(":")[0]

    @property
    def address(self) -> Secret:
        """The URL, wherever it was given; it shows itself redacted."""
        address = _one_of(self, "url", "url_file", required=True)
        assert address is not None
        return address

    @property
    def addresses(self) -> tuple[Secret, ...]:
        """The URL and its backup, in this order."""
        backup = _one_of(self, "backup_url", "backup_url_file", required=False)
        return (self.address,) if backup is None else (self.address, backup)

    @property
    def key(self) -> Secret | None:
        """The stream key, unless the URL ends in it."""
        keys = ("stream_key", "stream_key_file", "stream_key_env", "stream_key_credential")
        return _one_of(self, *keys, required=False)

    @property
    def bearer(self) -> Secret | None:
        """The token of a WHIP output."""
        return _one_of(self, "token", "token_file", "token_env", "token_credential", required=False)


def _schemes(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes)


def _apply(rule: Callable[..., object], *arguments: object) -> None:
    """Apply a rule that raises ConfigError. Raises ValueError, to which the model adds file, line and key."""
    try:
        rule(*arguments)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _below_storage_dir(output: OutputConfig) -> OutputConfig:
    scheme, _, name = output.address.reveal().partition(":")
    if scheme == "file":
        _apply(check_is_below, name)
    return output


class SlateConfig(Model):
    """What viewers see while the avatar is away.

    picture  card: a drawn one.  last: the last live picture.  image, clip: from that file, fitted into the live size.
    after_s  without pictures; until then the last one is held.
    """

    picture: Literal["card", "last", "image", "clip"] = "card"
    image: Path | None = None
    clip: Path | None = None
    after_s: float = Field(default=1.0, ge=0.5, le=60.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for picture in ("image", "clip"):
            if (self.picture == picture) != (getattr(self, picture) is not None):
                raise ValueError(f"picture: {picture} and a file in {picture} go together")
        return self


class SessionConfig(Model):
    avatar: AvatarConfig
    inputs: dict[Name, InputConfig]
    slate: SlateConfig = SlateConfig()
    outputs: dict[Name, Annotated[OutputConfig, AfterValidator(_below_storage_dir)]] = Field(min_length=1)

    @field_validator("inputs")
    @classmethod
    def _exactly_one(cls, inputs: dict[str, InputConfig]) -> dict[str, InputConfig]:
        if len(inputs) != 1:
            raise ValueError(f"this version takes exactly one input, not {', '.join(inputs) or 'none'}")
        return inputs


class Config(Model):
    """Everything. `drain_s`: how long SIGTERM lets an utterance and the outputs finish."""

    http: HttpConfig = HttpConfig()
    metrics: MetricsConfig = MetricsConfig()
    url_policy: UrlPolicyConfig = UrlPolicyConfig()
    log: LogConfig = LogConfig()
    storage: StorageConfig = StorageConfig()
    ice: IceConfig = IceConfig()
    drain_s: float = Field(default=20.0, ge=0.0, le=3600.0)
    sessions: dict[Name, SessionConfig] = Field(min_length=1)

    @field_validator("sessions")
    @classmethod
    def _histories_differ(cls, sessions: dict[str, SessionConfig]) -> dict[str, SessionConfig]:
        files = [str(s.avatar.history_file.absolute()) for s in sessions.values() if s.avatar.history_file]
        if len(set(files)) < len(files):
            raise ValueError("two sessions have the same avatar.history_file: each would overwrite the other's")
        return sessions
