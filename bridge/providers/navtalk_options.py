"""Which NavTalk avatar, and how it is used."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bridge.net.ice import IceServer
from bridge.ports import Capability, UplinkPacing
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, fill_shape
from bridge.redact import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions(ABC):
    """What both of NavTalk's interfaces take. None: not sent, so the service's console decides.

    role         conversation: the avatar answers what it hears. speak: it says what it is sent.
    tools        functions that the avatar's model may call, as OpenAI's API describes them.
    query        further query parameters of the URL; they win over our own, but for the licence.
    ice_servers  replaces the list that the service sends.
    step_s       deadline of each step of the hand-shake.
    """

    url: Secret
    license: Secret
    name: str | None = None
    role: Literal["conversation", "speak"] = "conversation"
    voice: str | None = None
    prompt: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    ice_servers: tuple[IceServer, ...] | None = None
    idle_audio: Literal["silence", "none"] = "silence"
    step_s: float = 10.0

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this avatar can do."""

    @property
    @abstractmethod
    def hand_shake(self) -> tuple[str, ...]:
        """Types of the events that make a session, in their order; the offer may come before or after any."""

    @property
    @abstractmethod
    def avatar(self) -> Mapping[str, str]:
        """The avatar, in query parameters."""

    @abstractmethod
    def typed(self, text: str) -> Sequence[navtalk.Request | str]:
        """The messages that something typed is sent in."""

    def picture(self, image: bytes, media_type: str, wants_answer: bool) -> str:
        """The message that a picture is sent in; for avatars with the capability `image`."""
        raise NotImplementedError

    @property
    def is_transparent(self) -> bool:
        """The service is used in its transparency mode: a mirror as documented, which takes sound in a bare form."""
        name, value = navtalk.TRANSPARENCY
        return navtalk.query_of(self.url.reveal(), self.query).get(name) == value

    @property
    def request_query(self) -> Mapping[str, str]:
        """What the URL is asked with, licence included: for the socket alone."""
        role = [navtalk.AUDIO_BACK] if self.role == "speak" and not self.is_transparent else []
        return {**self.avatar, **dict(role), **self.query, "license": self.license.reveal()}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class NavTalkOptions(CommonOptions):
    """An avatar of the unified interface.

    shapes  replace the inferred shapes of messages, by name; `navtalk_json.fill_shape` fills in "{text}" and "{image}"
            (a data URL), "{reply}" (0 or 1).
    """

    avatar_id: str | None = None
    shapes: Mapping[Literal["input_text", "input_image"], Mapping[str, Any]] = field(default_factory=dict)

    @property
    def capabilities(self) -> frozenset[Capability]:
        # A mirror has no model that could read, look, remember or call.
        if self.role == "speak":
            return frozenset({"interrupt"})
        return frozenset({"say", "interrupt", "image", "history", "tools"})

    @property
    def hand_shake(self) -> tuple[str, ...]:
        # A mirror may be spoken to once it is connected, and some services send it nothing else before the offer.
        if self.role == "speak":
            return (navtalk.Connected.TYPE,)
        return (navtalk.Connected.TYPE, navtalk.SessionCreated.TYPE, navtalk.SessionUpdated.TYPE)

    @property
    def avatar(self) -> Mapping[str, str]:
        return {"avatarId": self.avatar_id} if self.avatar_id else {"name": self.name or ""}

    def typed(self, text: str) -> Sequence[navtalk.Request | str]:
        shape = self.shapes.get("input_text")
        return (navtalk.TextInput(text) if shape is None else fill_shape(shape, {"text": text}),)

    def picture(self, image: bytes, media_type: str, wants_answer: bool) -> str:
        data_url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
        shape = self.shapes.get("input_image")
        if shape is None:
            return dump(navtalk.ImageInput(data_url, wants_answer))
        return fill_shape(shape, {"image": data_url, "reply": int(wants_answer)})
