"""The configuration of webhooks: what of ours tells the operator's own HTTP servers."""

from typing import Self

from pydantic import Field, model_validator

from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import Model, WebUrl, WebUrlFile, one_of
from bridge.event_types import EventType
from bridge.redact import Secret


class WebhookConfig(Model):
    """An HTTP server that is told things.

    url        https://HOST/PATH or http://HOST/PATH.  url_file: a file that holds it.
    secret     what messages are signed with; none: they are not signed.
    timeout_s  until one of them is answered.
    """

    url: WebUrl | None = None
    url_file: WebUrlFile | None = None
    secret: LiteralSecret | None = None
    secret_file: FileSecret | None = None
    secret_env: EnvSecret | None = None
    secret_credential: CredentialSecret | None = None
    timeout_s: float = Field(default=10.0, ge=0.1, le=60.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        one_of(self, "url", "url_file", required=True)
        one_of(self, *self._SECRET_KEYS, required=False)
        return self

    _SECRET_KEYS = ("secret", "secret_file", "secret_env", "secret_credential")

    @property
    def address(self) -> Secret:
        address = one_of(self, "url", "url_file", required=True)
        assert address is not None
        return address

    @property
    def key(self) -> Secret | None:
        return one_of(self, *self._SECRET_KEYS, required=False)


class EventWebhookConfig(WebhookConfig):
    """events: what it is told, of `GET /v1/sessions/NAME/events`; words that were spoken only if they are named."""

    events: tuple[EventType, ...] = Field(default=("state", "on_air", "output", "warning", "ended"), min_length=1)
