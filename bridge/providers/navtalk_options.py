"""Which NavTalk avatar, and how it is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from bridge.net.ice import IceServer
from bridge.ports import Capability, UplinkPacing
from bridge.protocols import navtalk
from bridge.redact import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class NavTalkOptions:
    """Which avatar, and how it is used. None: not sent, so the service's console decides.

    role         conversation: the avatar answers what it hears. speak: it says what it is sent.
    tools        functions that the avatar's model may call, as OpenAI's API describes them.
    shapes       replace the inferred shapes of messages, by name; `navtalk_json.fill_shape` fills in "{text}" and
                 "{image}" (a data URL), "{reply}" (0 or 1).
    query        further query parameters of the URL; they win over our own, but for the licence.
    ice_servers  replaces the list that the service sends.
    step_s       deadline of each step of the hand-shake.
    """

    url: Secret
    license: Secret
    name: str | None = None
    avatar_id: str | None = None
    role: Literal["conversation", "speak"] = "conversation"
    voice: str | None = None
    prompt: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    shapes: Mapping[Literal["input_text", "input_image"], Mapping[str, Any]] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    ice_servers: tuple[IceServer, ...] | None = None
    idle_audio: Literal["silence", "none"] = "silence"
    step_s: float = 10.0

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this avatar can do. A mirror has no model that could read, look, remember or call."""
        if self.role == "speak":
            return frozenset({"interrupt"})
        return frozenset({"say", "interrupt", "image", "history", "tools"})

    @property
    def is_transparent(self) -> bool:
        """The service is used in its transparency mode: a mirror as documented, which takes sound in a bare form."""
        name, value = navtalk.TRANSPARENCY
        return navtalk.query_of(self.url.reveal(), self.query).get(name) == value

    def request_url(self) -> str:
        """The whole URL, licence included: for the socket alone."""
        parts = urlsplit(self.url.reveal())
        avatar = {"avatarId": self.avatar_id} if self.avatar_id else {"name": self.name or ""}
        role = [navtalk.AUDIO_BACK] if self.role == "speak" and not self.is_transparent else []
        ours = avatar | dict(role) | dict(self.query) | {"license": self.license.reveal()}
        theirs = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in ours]
        query = urlencode([*theirs, *ours.items()], quote_via=quote, safe="")
        return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))

    @property
    def pacing(self) -> UplinkPacing:
        return UplinkPacing(
            live_samples=navtalk.LIVE_SAMPLES,
            buffered_samples=navtalk.BUFFERED_SAMPLES,
            idle_audio=self.idle_audio,
            # A turn ends after 500 ms of silence (server_vad of the vendor's legacy page), plus half as much for the
            # detector's own window. A mirror needs none; the AudioBack worker lets the mouth close for 250 ms.
            tail_s=0.75 if self.role == "conversation" else 0.25,
            needs_clean_tail=self.role == "conversation",
        )
