"""The configuration of clips that NavTalk's video generation renders."""

import base64
from pathlib import Path
from typing import Self

from pydantic import ByteSize, Field, field_validator, model_validator

from bridge.config_license import Licensed
from bridge.config_values import BaseUrl, WebUrl, one_of
from bridge.protocols.navtalk_clips import SOUNDS, VISUALS, Order
from bridge.redact import Secret

NAVTALK_CLIPS_URL = "https://app.navtalk.ai"
# Five minutes of MP3; the documents name no limit, and the whole order goes into one request.
_MOST_AUDIO_BYTES = 10_000_000


class ClipConfig(Licensed):
    """A clip: one of video_url, image_url and character_name is seen, one of audio_url, audio_file and content heard.

    url         of the service.  status_url: where it is asked whether the clip is ready; None: the same.
    audio_file  is sent along.  content: a text to be spoken by `voice`.
    deadline_s  from the order to the rendered clip, and as long again for its download.  max_size: of it, in bytes.
    """

    url: BaseUrl = Secret.url(NAVTALK_CLIPS_URL)
    status_url: BaseUrl | None = None
    video_url: WebUrl | None = None
    image_url: WebUrl | None = None
    character_name: str | None = Field(default=None, min_length=1)
    audio_url: WebUrl | None = None
    audio_file: Path | None = None
    content: str | None = Field(default=None, min_length=1, max_length=32_768)
    voice: str | None = Field(default=None, min_length=1)
    deadline_s: float = Field(default=300.0, ge=1.0, le=3600.0)
    max_size: ByteSize = Field(default=ByteSize(200 * 2**20), ge=1)

    @field_validator("audio_file")
    @classmethod
    def _can_be_sent(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            if path.stat().st_size > _MOST_AUDIO_BYTES:
                raise ValueError(f"{path} is larger than {_MOST_AUDIO_BYTES} bytes: put it on a server, as audio_url")
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        return path

    @model_validator(mode="after")
    def _check(self) -> Self:
        one_of(self, *VISUALS, required=True)
        one_of(self, "audio_url", "audio_file", "content", required=True)
        if self.voice is not None and self.content is None:
            raise ValueError("voice is for content alone")
        return self

    def order(self) -> Order:
        """What the service is asked for. Reads `audio_file`: raises OSError."""
        values = {"video_url": self.video_url, "image_url": self.image_url, "character_name": self.character_name}
        sounds = {"audio_url": self.audio_url, "audio_base64": self._audio(), "content": self.content}
        visual, seen = next((name, _plain(values[name])) for name in VISUALS if values[name] is not None)
        sound, said = next((name, _plain(sounds[name])) for name in SOUNDS if sounds[name] is not None)
        return Order(visual, seen, sound, said, self.voice)

    def _audio(self) -> str | None:
        return None if self.audio_file is None else base64.b64encode(self.audio_file.read_bytes()).decode()


def _plain(value: Secret | str | None) -> str:
    return value.reveal() if isinstance(value, Secret) else value or ""
