"""The licence that NavTalk's avatars and its video generation take."""

from typing import Self

from pydantic import model_validator

from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import Model, one_of
from bridge.redact import Secret


class Licensed(Model):
    """What needs a licence, given in one of the four ways that secrets are."""

    license: LiteralSecret | None = None
    license_file: FileSecret | None = None
    license_env: EnvSecret | None = None
    license_credential: CredentialSecret | None = None

    @model_validator(mode="after")
    def _check_license(self) -> Self:
        assert self.license_key
        return self

    @property
    def license_key(self) -> Secret:
        keys = ("license", "license_file", "license_env", "license_credential")
        key = one_of(self, *keys, required=True)
        assert key is not None
        return key
