"""The configuration of inputs: what the avatar hears."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from bridge.config_values import Model, Url, apply, check_host, shown_schemes
from bridge.protocols import input_urls
from bridge.redact import Secret


class InputConfig(Model):
    """What the avatar hears, together with the other inputs of its session.

    url          where sound comes from, as `protocols.input_urls` has it.
    loop         starts over at the end, for ever.
    start_s      where it begins, for the first time.
    loudness_lufs  of speech, as EBU R 128 measures it; None: as loud as it is.
    dc_blocker   takes a constant offset off.
    priority     while somebody speaks here, inputs of lower priority are ducked.
    duck_db      gain while ducked.
    barge_in     whether who speaks here, with a priority above 0, interrupts the avatar's answer.
    hang_over_s  without a voice, until somebody has finished speaking.
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
        return self.url.reveal().partition(":")[0] in input_urls.LISTENING_SCHEMES

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if (self.loop or self.start_s) and self.url.reveal().partition(":")[0] not in input_urls.FINITE_SCHEMES:
            raise ValueError(f"loop and start_s are for {shown_schemes(input_urls.FINITE_SCHEMES)} alone")
        return self
