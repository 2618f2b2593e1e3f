"""The configuration: what an operator may set, with units, ranges and defaults.

Models are frozen and refuse unknown keys. `bridge.config_file` reads them from YAML; the examples in `config/`
explain every key to operators. Avatars, inputs and outputs stand in `bridge.config_avatars`, `bridge.config_inputs`
and `bridge.config_outputs`.

Relative paths are relative to the working directory, those in `file:` URLs to `storage.dir`.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, field_validator, model_validator

from bridge.config_avatars import (
    AnyAvatarConfig,
    AvatarConfig,
    HeyGenConfig,
    LiveAvatarConfig,
    LiveKitConfig,
    NavTalkConfig,
    NavTalkLegacyConfig,
    ToolConfig,
)
from bridge.config_clips import ClipConfig
from bridge.config_inputs import InputConfig
from bridge.config_outputs import MAX_VIEWERS, OutputConfig, OverlayConfig, SlateConfig, below_storage_dir
from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret
from bridge.config_values import (
    Address,
    IceServer,
    IpAddress,
    Listen,
    Model,
    Name,
    PortRange,
    one_of,
    parse_address,
)
from bridge.config_webhooks import EventWebhookConfig, WebhookConfig
from bridge.redact import Secret

# What others take from here, wherever it is written.
__all__ = [
    "MAX_VIEWERS",
    "Address",
    "AnyAvatarConfig",
    "AvatarConfig",
    "ClipConfig",
    "Config",
    "EventWebhookConfig",
    "HeyGenConfig",
    "HttpConfig",
    "IceConfig",
    "IceServer",
    "InputConfig",
    "LiveAvatarConfig",
    "LiveKitConfig",
    "LogConfig",
    "MetricsConfig",
    "Model",
    "Name",
    "NavTalkConfig",
    "NavTalkLegacyConfig",
    "OutputConfig",
    "OverlayConfig",
    "Scope",
    "SecretConfig",
    "SessionConfig",
    "SlateConfig",
    "StorageConfig",
    "TlsConfig",
    "TokenConfig",
    "ToolConfig",
    "UrlPolicyConfig",
    "WebhookConfig",
    "parse_address",
]

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


class SessionConfig(Model):
    """webhooks: are told what happens in the session."""

    avatar: AnyAvatarConfig
    inputs: dict[Name, InputConfig] = Field(min_length=1)
    slate: SlateConfig = SlateConfig()
    outputs: dict[Name, Annotated[OutputConfig, AfterValidator(below_storage_dir)]] = Field(min_length=1)
    webhooks: tuple[EventWebhookConfig, ...] = ()


class Config(Model):
    """Everything.

    secrets  what API calls may name in place of a secret of their own.
    drain_s  how long SIGTERM lets an utterance and the outputs finish.
    max_sessions  beyond so many, API calls begin none.
    """

    http: HttpConfig = HttpConfig()
    metrics: MetricsConfig = MetricsConfig()
    url_policy: UrlPolicyConfig = UrlPolicyConfig()
    log: LogConfig = LogConfig()
    storage: StorageConfig = StorageConfig()
    ice: IceConfig = IceConfig()
    secrets: dict[Annotated[str, AfterValidator(_check_secret_name)], SecretConfig] = Field(default_factory=dict)
    drain_s: float = Field(default=20.0, ge=0.0, le=3600.0)
    max_sessions: int = Field(default=32, ge=1, le=1000)
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
