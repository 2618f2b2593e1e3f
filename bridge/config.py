"""The configuration: what an operator may set, with units, ranges and defaults.

Models are frozen and refuse unknown keys. `bridge.config_file` reads them from YAML; `config/bridge.example.yaml`
explains every key to operators. Inputs and outputs stand in `bridge.config_inputs` and `bridge.config_outputs`.

Relative paths are relative to the working directory, those in `file:` URLs to `storage.dir`.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, ByteSize, Field, field_serializer, field_validator, model_validator

from bridge.config_inputs import InputConfig
from bridge.config_outputs import OutputConfig, SlateConfig, below_storage_dir
from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import (
    Address,
    IceServer,
    IpAddress,
    Listen,
    Model,
    Name,
    PortRange,
    Url,
    check_host,
    one_of,
    parse_address,
)
from bridge.protocols import navtalk
from bridge.redact import HARMLESS_QUERY, MASK, Secret, remember

# What others take from here, wherever it is written.
__all__ = [
    "Address",
    "AvatarConfig",
    "Config",
    "HttpConfig",
    "IceConfig",
    "IceServer",
    "InputConfig",
    "LogConfig",
    "MetricsConfig",
    "Model",
    "Name",
    "OutputConfig",
    "Scope",
    "SecretConfig",
    "SessionConfig",
    "SlateConfig",
    "StorageConfig",
    "TlsConfig",
    "TokenConfig",
    "ToolConfig",
    "UrlPolicyConfig",
    "parse_address",
]

NAVTALK_URL = "wss://transfer.navtalk.ai/wss/v2/realtime-chat"


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


# A last label of digits alone would be an address, in one of many spellings.
_HOST_NAME = re.compile(r"([\w-]+\.)*[\w-]*[A-Za-z_-][\w-]*\.?", re.ASCII)


def _check_allowed(entry: str) -> str:
    try:
        ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if not _HOST_NAME.fullmatch(entry):
            raise ValueError(f"{entry} is neither a network such as 192.168.1.0/24 nor the name of a host") from None
    return entry


class UrlPolicyConfig(Model):
    """allow: networks, addresses and hosts that URLs of strangers may lead to although they are not public."""

    allow: tuple[Annotated[str, AfterValidator(_check_allowed)], ...] = ()


def _check_secret_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name):
        raise ValueError("the name of a secret has 1 to 63 characters of A-Z, a-z, 0-9, _ and -")
    return name


def _spell_host(host: str) -> str:
    """As `net.url_policy.parse_target` spells it."""
    try:
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host} is neither a host's name nor an address; no port or path belongs there") from None
        return host.lower().removesuffix(".")


class SecretConfig(Model):
    """A secret that API calls may name. One of file, env and credential says where it is.

    hosts  who may receive it: names or addresses, as they stand in the URLs that it is used with.
    """

    file: FileSecret | None = None
    env: EnvSecret | None = None
    credential: CredentialSecret | None = None
    hosts: tuple[Annotated[str, AfterValidator(_spell_host)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        one_of(self, *self._PLACES, required=True)
        return self

    _PLACES = ("file", "env", "credential")

    @property
    def value(self) -> Secret:
        value = one_of(self, *self._PLACES, required=True)
        assert value is not None
        return value.only_for(self.hosts)


class LogConfig(Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class StorageConfig(Model):
    """dir: where `file:` URLs start.  min_free: below this much free space recordings end, in bytes."""

    dir: Path = Path("recordings")
    min_free: ByteSize = Field(default=ByteSize(2**30), ge=0)


class IceConfig(Model):
    """interfaces: network interfaces to gather candidates on; none: all but loopback.  servers: STUN and TURN, used
    besides those that the avatar service names.  public_address: what a NAT that maps it one to one shows of us; None:
    our own addresses.  udp_ports: FIRST-LAST, for media; None: any."""

    interfaces: tuple[str, ...] = ()
    public_address: IpAddress | None = None
    udp_ports: PortRange | None = None
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
    max_session_s   how long the service lets a session last: the next one takes over before. None: as it says itself.
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
        check_host(url.reveal())
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
        one_of(self, *self._LICENSE_KEYS, required=True)
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
        key = one_of(self, *self._LICENSE_KEYS, required=True)
        assert key is not None
        return key

    @field_serializer("query")
    def _mask_query(self, query: dict[str, str]) -> dict[str, str]:
        return {name: value if name in HARMLESS_QUERY else MASK for name, value in query.items()}


class SessionConfig(Model):
    avatar: AvatarConfig
    inputs: dict[Name, InputConfig] = Field(min_length=1)
    slate: SlateConfig = SlateConfig()
    outputs: dict[Name, Annotated[OutputConfig, AfterValidator(below_storage_dir)]] = Field(min_length=1)


class Config(Model):
    """Everything.

    secrets  what API calls may name in place of a secret of their own.
    drain_s  how long SIGTERM lets an utterance and the outputs finish.
    """

    http: HttpConfig = HttpConfig()
    metrics: MetricsConfig = MetricsConfig()
    url_policy: UrlPolicyConfig = UrlPolicyConfig()
    log: LogConfig = LogConfig()
    storage: StorageConfig = StorageConfig()
    ice: IceConfig = IceConfig()
    secrets: dict[Annotated[str, AfterValidator(_check_secret_name)], SecretConfig] = Field(default_factory=dict)
    drain_s: float = Field(default=20.0, ge=0.0, le=3600.0)
    sessions: dict[Name, SessionConfig] = Field(min_length=1)

    @field_validator("sessions")
    @classmethod
    def _histories_differ(cls, sessions: dict[str, SessionConfig]) -> dict[str, SessionConfig]:
        files = [str(s.avatar.history_file.absolute()) for s in sessions.values() if s.avatar.history_file]
        if len(set(files)) < len(files):
            raise ValueError("two sessions have the same avatar.history_file: each would overwrite the other's")
        return sessions

    @field_validator("sessions")
    @classmethod
    def _one_reads_standard_input(cls, sessions: dict[str, SessionConfig]) -> dict[str, SessionConfig]:
        urls = [source.url.reveal() for session in sessions.values() for source in session.inputs.values()]
        if sum(url.partition("?")[0] == "pcm:-" for url in urls) > 1:
            raise ValueError("two inputs are pcm:-, and there is one standard input: each would hear pieces of it")
        return sessions
