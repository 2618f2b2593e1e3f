"""The configuration of avatars: one model for each service, told apart by the key `service`."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, field_serializer, field_validator, model_validator

from bridge.config_license import Licensed
from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import BaseUrl, IceServer, Model, Url, check_host, one_of
from bridge.config_webhooks import WebhookConfig
from bridge.protocols import navtalk
from bridge.redact import HARMLESS_QUERY, MASK, Secret, remember

NAVTALK_URL = "wss://transfer.navtalk.ai/wss/v2/realtime-chat"
# The page on the older interface. Its applications name other hosts and paths for both: neither is made of the other.
NAVTALK_LEGACY_URL = "wss://api.navtalk.ai/api/realtime-api"
NAVTALK_LEGACY_SIGNAL_URL = "wss://api.navtalk.ai/iwebrtc"
HEYGEN_URL, LIVEAVATAR_URL = "https://api.heygen.com", "https://api.liveavatar.com"
# Where a service stands in the place of a mistake, as pydantic tells it; in no file.
SERVICE_TAG = "service="


def _check_websocket(url: Secret) -> Secret:
    if not re.match(r"wss?://[^/]", url.reveal()):
        raise ValueError("must be wss://HOST/PATH or ws://HOST/PATH")
    check_host(url.reveal())
    # Basic authentication (RFC 7617 §2) has no way to write one.
    if ":" in unquote(urlsplit(url.reveal()).username or ""):
        raise ValueError("holds a user name with a colon (%3A), which no server could tell from the password")
    return url


WebSocketUrl = Annotated[Url, AfterValidator(_check_websocket)]


class ToolConfig(Model):
    """A function that the avatar's model may call, as OpenAI's API describes one.

    parameters  JSON Schema of its arguments.
    default     the answer to a call that nobody has answered in time; None: the avatar's `tool_default`.
    webhook     is asked for the answer; None: whoever uses the API is waited for.
    """

    type: Literal["function"] = "function"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    default: str | None = None
    webhook: WebhookConfig | None = None

    @property
    def function(self) -> dict[str, Any]:
        """What the service is told of it."""
        return self.model_dump(exclude={"default", "webhook"})


class AvatarConfig(Model):
    """What avatars of every service have. Keys that are None are not sent: the service's console decides.

    role            conversation: the avatar answers what it hears.  speak: it says what it is sent.
    tools           none: as the service's console has them.
    tool_default    the answer to a tool call that nobody has answered after `tool_deadline_s`.
    history_file    what was said before, read at the start and appended to; see `bridge.history`.
    ice_servers     replaces the list that the service sends.
    idle_audio      what flows while no input speaks; a service's video stalls without audio.
    max_session_s   how long the service lets a session last: the next one takes over before. None: as it says itself.
    max_starts_per_hour  sessions that the service may be asked to start in any hour: a guard against bills.
    """

    service: str
    role: Literal["conversation", "speak"] = "conversation"
    tools: tuple[ToolConfig, ...] = ()
    tool_default: str = Field(default="No answer is available at the moment.", max_length=65_536)
    tool_deadline_s: float = Field(default=10.0, gt=0.0, le=600.0)
    history_file: Path | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    idle_audio: Literal["silence", "none"] = "silence"
    max_session_s: float | None = Field(default=None, ge=30.0)
    max_starts_per_hour: int = Field(default=60, ge=1)

    @field_validator("tools")
    @classmethod
    def _names_differ(cls, tools: tuple[ToolConfig, ...]) -> tuple[ToolConfig, ...]:
        names = [tool.name for tool in tools]
        if len(set(names)) < len(names):
            raise ValueError(f"each tool needs a name of its own, not {', '.join(names)}")
        return tools

    # Of no use to a mirror, which has no model behind it.
    _FOR_A_MODEL: ClassVar[tuple[str, ...]] = ("tools", "history_file")

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.role == "speak" and (unused := [key for key in self._FOR_A_MODEL if getattr(self, key)]):
            raise ValueError(f"{', '.join(unused)}: of no use to the role speak, which has no model behind it")
        return self


class LicensedConfig(AvatarConfig, Licensed):
    """An avatar of NavTalk's, in both of its interfaces.

    url    of its WebSocket.  query: further parameters of it.
    """

    url: WebSocketUrl
    voice: str | None = None
    prompt: str | None = None
    query: dict[str, str] = Field(default_factory=dict, repr=False)

    @field_validator("query")
    @classmethod
    def _remember_values(cls, query: dict[str, str]) -> dict[str, str]:
        for name, value in query.items():
            if name not in HARMLESS_QUERY:
                remember(value)
        return query

    @model_validator(mode="after")
    def _check_mirror(self) -> Self:
        if self.role == "speak":
            return self
        asked = navtalk.query_of(self.url.reveal(), self.query)
        for name, value in (navtalk.TRANSPARENCY, navtalk.AUDIO_BACK):
            if asked.get(name) == value:
                raise ValueError(f"{name}={value} asks for a mirror, which does not converse: it needs role: speak")
        return self

    @field_serializer("query")
    def _mask_query(self, query: dict[str, str]) -> dict[str, str]:
        return {name: value if name in HARMLESS_QUERY else MASK for name, value in query.items()}


# What an operator's own message must have room for, by the name of the message.
_SHAPE_VALUES = {"input_text": "{text}", "input_image": "{image}"}


class NavTalkConfig(LicensedConfig):
    """An avatar of NavTalk's unified interface.

    shapes  messages whose shape the service does not document, in JSON's terms: "{text}", "{image}" (a data URL) and
            "{reply}" (0 or 1) stand for their values. None: as `protocols.navtalk_json` infers it.
    """

    service: Literal["navtalk"] = "navtalk"
    url: WebSocketUrl = Secret.url(NAVTALK_URL)
    name: str | None = Field(default=None, min_length=1)
    avatar_id: str | None = Field(default=None, min_length=1)
    shapes: dict[Literal["input_text", "input_image"], dict[str, Any]] = Field(default_factory=dict)

    _FOR_A_MODEL = (*AvatarConfig._FOR_A_MODEL, "shapes")

    @field_validator("shapes")
    @classmethod
    def _have_room(cls, shapes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, shape in shapes.items():
            if json.dumps(_SHAPE_VALUES[name]) not in json.dumps(shape) or not isinstance(shape.get("type"), str):
                raise ValueError(f'{name} needs a "type", and the value "{_SHAPE_VALUES[name]}" somewhere')
        return shapes

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name is None and self.avatar_id is None:
            raise ValueError("name or avatar_id is needed")
        return self


class NavTalkLegacyConfig(LicensedConfig):
    """An avatar of NavTalk's older interface of two WebSockets: one for sound and events, one for WebRTC's signalling.

    session         goes into `session.update` as it is, over what we say there.
    signal_url      of the second WebSocket.
    signal_user_id  what that one knows the session by: the licence, the session's id, or literal:TEXT.
    signal_create   whether the session is asked for there, as the vendor's applications do and its page does not.
    """

    service: Literal["navtalk-legacy"]
    url: WebSocketUrl = Secret.url(NAVTALK_LEGACY_URL)
    name: str = Field(min_length=1)
    session: dict[str, Any] = Field(default_factory=dict)
    signal_url: WebSocketUrl = Secret.url(NAVTALK_LEGACY_SIGNAL_URL)
    signal_user_id: str = "license"
    signal_create: bool = True

    @field_validator("signal_user_id")
    @classmethod
    def _is_known(cls, user_id: str) -> str:
        if not re.fullmatch("license|session|literal:.+", user_id):
            raise ValueError("must be license, session or literal:TEXT")
        return user_id


def _check_server(url: Secret) -> Secret:
    if not re.match(r"(?:wss?|https?)://[^/]", url.reveal()):
        raise ValueError("must be wss://HOST or ws://HOST, as the server's console shows it; https and http will do")
    check_host(url.reveal())
    return url


class LiveKitConfig(AvatarConfig):
    """An avatar that is a participant of a LiveKit room, such as a worker of LiveKit's agents.

    url       of the room's server.
    token     opens the room; or api_key and api_secret, with which tokens for `room` are made for `identity`, which is
              how workers know whom to listen to.
    participant  the avatar's identity; None: the first one of `participant_kind` that shows pictures; that None: any.
    drive     worker: the avatar says what our inputs give; none: somebody else drives it, and it is only broadcast.
    speech_rate_hz  what the service behind the worker takes.
    """

    service: Literal["livekit"]
    role: Literal["speak"] = "speak"
    idle_audio: Literal["none"] = "none"  # a stream of speech ends with it
    url: Annotated[Url, AfterValidator(_check_server)]
    token: LiteralSecret | None = None
    token_file: FileSecret | None = None
    token_env: EnvSecret | None = None
    token_credential: CredentialSecret | None = None
    api_key: str | None = Field(default=None, min_length=1)
    api_secret: LiteralSecret | None = None
    api_secret_file: FileSecret | None = None
    api_secret_env: EnvSecret | None = None
    api_secret_credential: CredentialSecret | None = None
    room: str | None = Field(default=None, min_length=1)
    identity: str = Field(default="avatar-bridge", min_length=1)
    participant: str | None = Field(default=None, min_length=1)
    participant_kind: Literal["agent", "standard", "ingress", "egress", "sip"] | None = None
    drive: Literal["worker", "none"] = "worker"
    speech_rate_hz: Literal[16_000, 24_000] = 24_000

    _TOKEN_KEYS = ("token", "token_file", "token_env", "token_credential")
    _SECRET_KEYS = ("api_secret", "api_secret_file", "api_secret_env", "api_secret_credential")

    @model_validator(mode="after")
    def _check_entry(self) -> Self:
        is_minted = self.api_key is not None or self.given_secret is not None
        if is_minted == (self.given_token is not None):
            raise ValueError("either token (or token_file, …) or api_key and api_secret are needed")
        if is_minted and not (self.api_key and self.given_secret and self.room):
            raise ValueError("api_key needs api_secret (or api_secret_file, …) and room")
        if not is_minted and self.room is not None:
            raise ValueError("room: the token says which one")
        return self

    @property
    def given_token(self) -> Secret | None:
        return one_of(self, *self._TOKEN_KEYS, required=False)

    @property
    def given_secret(self) -> Secret | None:
        return one_of(self, *self._SECRET_KEYS, required=False)


class _KeyedConfig(AvatarConfig):
    """An avatar of HeyGen's or LiveAvatar's: it says what it is sent.

    url        of the REST interface, which names everything else.  api_key: opens it.
    avatar_id  as the service lists it.
    session    goes into the request for a session as it is, over what we say there.
    """

    role: Literal["speak"] = "speak"
    idle_audio: Literal["none"] = "none"  # a message says that the turn is over
    url: BaseUrl
    api_key: LiteralSecret | None = None
    api_key_file: FileSecret | None = None
    api_key_env: EnvSecret | None = None
    api_key_credential: CredentialSecret | None = None
    avatar_id: str = Field(min_length=1)
    session: dict[str, Any] = Field(default_factory=dict)

    _KEY_KEYS = ("api_key", "api_key_file", "api_key_env", "api_key_credential")

    @property
    def given_key(self) -> Secret | None:
        return one_of(self, *self._KEY_KEYS, required=False)


class HeyGenConfig(_KeyedConfig):
    """An avatar of HeyGen's Interactive Avatar.

    dialect  of the WebSocket: alpha fills a buffer and commits it; speak sends what is to be said.
    token    opens one session, in place of the key.
    """

    service: Literal["heygen"]
    url: BaseUrl = Secret.url(HEYGEN_URL)
    quality: Literal["low", "medium", "high"] = "high"
    dialect: Literal["alpha", "speak"] = "alpha"
    token: LiteralSecret | None = None
    token_file: FileSecret | None = None
    token_env: EnvSecret | None = None
    token_credential: CredentialSecret | None = None

    _TOKEN_KEYS = ("token", "token_file", "token_env", "token_credential")

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        one_of(self, *self._KEY_KEYS, *self._TOKEN_KEYS, required=True)
        return self

    @property
    def given_token(self) -> Secret | None:
        return one_of(self, *self._TOKEN_KEYS, required=False)


class OwnRoomConfig(Model):
    """A LiveKit room of the operator's own, which the avatar is sent into.

    url  of its server.  api_key and api_secret: tokens are made with them, for the avatar and for `identity`.
    """

    url: Annotated[Url, AfterValidator(_check_server)]
    name: str = Field(min_length=1)
    api_key: str = Field(min_length=1)
    api_secret: LiteralSecret | None = None
    api_secret_file: FileSecret | None = None
    api_secret_env: EnvSecret | None = None
    api_secret_credential: CredentialSecret | None = None
    identity: str = Field(default="avatar-bridge", min_length=1)

    _SECRET_KEYS = ("api_secret", "api_secret_file", "api_secret_env", "api_secret_credential")

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        assert self.given_secret
        return self

    @property
    def given_secret(self) -> Secret:
        secret = one_of(self, *self._SECRET_KEYS, required=True)
        assert secret is not None
        return secret


class LiveAvatarConfig(_KeyedConfig):
    """An avatar of LiveAvatar's, in its LITE mode.

    sandbox  sessions of a minute with one certain avatar, which cost nothing.
    room     where it is to appear; None: in a room of the service's.
    """

    service: Literal["liveavatar"]
    url: BaseUrl = Secret.url(LIVEAVATAR_URL)
    quality: Literal["low", "medium", "high", "very_high"] = "high"
    sandbox: bool = False
    room: OwnRoomConfig | None = None

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        one_of(self, *self._KEY_KEYS, required=True)
        return self


def _tag_of(avatar: Any) -> str:
    """Which model is meant; what is no mapping at all is for any model to refuse."""
    service = avatar.get("service", "navtalk") if isinstance(avatar, dict) else getattr(avatar, "service", "navtalk")
    return f"{SERVICE_TAG}{service}"


AnyAvatarConfig = Annotated[
    Annotated[NavTalkConfig, Tag(f"{SERVICE_TAG}navtalk")]
    | Annotated[NavTalkLegacyConfig, Tag(f"{SERVICE_TAG}navtalk-legacy")]
    | Annotated[LiveKitConfig, Tag(f"{SERVICE_TAG}livekit")]
    | Annotated[HeyGenConfig, Tag(f"{SERVICE_TAG}heygen")]
    | Annotated[LiveAvatarConfig, Tag(f"{SERVICE_TAG}liveavatar")],
    Discriminator(_tag_of),
]
