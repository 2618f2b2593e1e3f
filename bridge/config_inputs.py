"""The configuration of inputs: what the avatar hears, and viewers with it."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from bridge.config_clips import ClipConfig
from bridge.config_values import Model, Url, apply, check_host, shown_schemes
from bridge.protocols import input_urls
from bridge.redact import Secret


class InputConfig(Model):
    """What the avatar hears, together with the other inputs of its session, and viewers if they are to.

    url          where sound comes from, as `protocols.input_urls` has it.
    loop         starts over at the end, for ever.
    start_s      where it begins, for the first time.
    loudness_lufs  of speech, as EBU R 128 measures it; None: as loud as it is.
    dc_blocker   takes a constant offset off.
    priority     while somebody speaks here, inputs of lower priority are ducked.
    duck_db      gain while ducked.
    barge_in     whether who speaks here, with a priority above 0, interrupts the avatar's answer.
    follow_clock whether a live source's own clock is followed, instead of forgetting in pauses what came too fast.
    hang_over_s  without a voice, until somebody has finished speaking.
    on_air       whether viewers hear it, beside the avatar.
    air_delay_ms how much later than the avatar viewers hear it.
    air_duck_db  gain for viewers while the avatar speaks, or an input of higher priority that is on air.
    to_avatar    whether the avatar hears it; not so music that is for viewers alone.
    rendering    of `clip:`, what is to be rendered.
    """

    url: Url
    loop: bool = False
    start_s: float = Field(default=0.0, ge=0.0)
    gain_db: float = Field(default=0.0, ge=-60.0, le=40.0)
    loudness_lufs: float | None = Field(default=None, ge=-40.0, le=-10.0)
    dc_blocker: bool = False
    priority: int = Field(default=0, ge=0, le=100)
    duck_db: float = Field(default=-20.0, ge=-100.0, le=0.0)
    barge_in: bool = True
    hang_over_s: float = Field(default=0.5, ge=0.1, le=10.0)
    follow_clock: bool = False
    on_air: bool = False
    air_delay_ms: float = Field(default=0.0, ge=0.0, le=10_000.0)
    air_duck_db: float = Field(default=-12.0, ge=-100.0, le=0.0)
    to_avatar: bool = True
    rendering: ClipConfig | None = None

    @field_validator("url")
    @classmethod
    def _is_supported(cls, url: Secret) -> Secret:
        apply(input_urls.check_url, url.reveal())
        if url.reveal().partition(":")[0] in input_urls.NETWORK_SCHEMES:
            check_host(url.reveal())
        return url

    @property
    def listens(self) -> bool:
        """Whether it waits for somebody who sends."""
        return self.scheme in input_urls.LISTENING_SCHEMES

    @property
    def scheme(self) -> str:
        return self.url.reveal().partition(":")[0]

    @model_validator(mode="after")
    def _check_air(self) -> Self:
        fields = type(self).model_fields
        if not self.on_air and any(
            getattr(self, key) != fields[key].default for key in ("air_delay_ms", "air_duck_db")
        ):
            raise ValueError("air_delay_ms and air_duck_db are for inputs with on_air: true")
        if not self.on_air and not self.to_avatar:
            raise ValueError("nobody hears it: on_air or to_avatar has to be true")
        return self

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if (self.scheme == "clip") != (self.rendering is not None):
            raise ValueError("url: clip: and rendering go together")
        return self

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if (self.loop or self.start_s) and self.scheme not in input_urls.FINITE_SCHEMES:
            raise ValueError(f"loop and start_s are for {shown_schemes(input_urls.FINITE_SCHEMES)} alone")
        if self.follow_clock and self.scheme not in input_urls.CLOCKED_SCHEMES:
            raise ValueError(f"follow_clock is for {shown_schemes(input_urls.CLOCKED_SCHEMES)} alone")
        return self
