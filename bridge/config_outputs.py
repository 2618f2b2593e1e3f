"""The configuration of outputs, and of the slate that they show while the avatar is away."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import (
    Bitrate,
    IceServer,
    Model,
    SpkiPin,
    Url,
    UrlFile,
    apply,
    check_host,
    one_of,
    shown_schemes,
)
from bridge.media.recording_name import check_is_below, check_name
from bridge.protocols import rtmp_address, whip
from bridge.redact import Secret

OUTPUT_SCHEMES = ("rtmp", "rtmps", *whip.SCHEMES, "file")


class OutputConfig(Model):
    """One place to publish to.

    url            rtmp://HOST/APP[/KEY], rtmps: likewise, whip+https://HOST/PATH, whip+http: likewise,
                   file:NAME.(mp4|mkv|flv|ts); the name may hold `{start:FORMAT}`, the start in UTC as strftime
                   prints it.
    url_file       a file that holds the URL.
    stream_key     the part of an RTMP URL that is a secret.
    token          what a WHIP server knows us by (RFC 6750).
    ice_servers    of a WHIP output, replaces the general list.
    keyframe_s     how far keyframes may lie apart; the avatar service is asked for one that often.
    audio_bitrate  of AAC, bits per second; "128k" is 128000.
    autostart      it publishes from the session's start on; otherwise once the operator starts it.
    backup_url     of an RTMP output: tried in turn with `url` after each loss, with the same stream key.
    tls_ca_file    of an RTMPS output: the certificates (PEM) that its server's may be signed by; None: the system's.
    tls_pin_sha256 of an RTMPS output: SHA-256 of public keys (SPKI, as in RFC 7469) in base64, one of which its server
                   must have besides a valid certificate; none: any.
    """

    url: Url | None = None
    url_file: UrlFile | None = None
    stream_key: LiteralSecret | None = None
    stream_key_file: FileSecret | None = None
    stream_key_env: EnvSecret | None = None
    stream_key_credential: CredentialSecret | None = None
    token: LiteralSecret | None = None
    token_file: FileSecret | None = None
    token_env: EnvSecret | None = None
    token_credential: CredentialSecret | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    keyframe_s: float = Field(default=2.0, ge=0.5, le=60.0)
    audio_bitrate: Bitrate = 128_000
    autostart: bool = True
    backup_url: Url | None = None
    backup_url_file: UrlFile | None = None
    tls_ca_file: Path | None = None
    tls_pin_sha256: tuple[SpkiPin, ...] = ()

    @field_validator("url", "url_file", "backup_url", "backup_url_file")
    @classmethod
    def _is_supported(cls, url: Secret | None) -> Secret | None:
        if url is None:
            return None
        scheme, _, rest = url.reveal().partition(":")
        if scheme not in OUTPUT_SCHEMES:
            raise ValueError(f"{scheme}: is no output of this version; there is {shown_schemes(OUTPUT_SCHEMES)}")
        if scheme == "file":
            apply(check_name, rest)
            return url
        if scheme in whip.SCHEMES:
            apply(whip.parse_url, url.reveal())
            check_host(url.reveal())
            return url
        if not re.fullmatch(r"//[^/]+/[^/].*", rest):
            raise ValueError(f"must be {scheme}://HOST/APP, with the stream key behind it or in stream_key_file")
        check_host(url.reveal())
        # Whether a key is missing is seen when all keys are read.
        apply(rtmp_address.parse_url, url.reveal(), "any")
        return url

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_whip:
            apply(whip.parse_url, self.address.reveal(), self.bearer.reveal() if self.bearer else None)
        elif self.bearer is not None or self.ice_servers is not None:
            raise ValueError("token and ice_servers are for whip+https: and whip+http: alone")
        self._check_rtmp()
        return self

    def _check_rtmp(self) -> None:
        schemes = {address.reveal().partition(":")[0] for address in self.addresses}
        if (self.tls_ca_file or self.tls_pin_sha256) and "rtmps" not in schemes:
            raise ValueError("tls_ca_file and tls_pin_sha256 are for rtmps: alone")
        if schemes <= {"rtmp", "rtmps"}:
            for address in self.addresses:
                apply(rtmp_address.parse_url, address.reveal(), self.key.reveal() if self.key else None)
        elif len(self.addresses) > 1:
            raise ValueError("a backup_url is for rtmp: and rtmps: alone, and is one of them itself")
        elif self.key is not None:
            raise ValueError("a WHIP server has a token, no stream key" if self.is_whip else "a file has no stream key")

    @property
    def is_whip(self) -> bool:
        return self.scheme in whip.SCHEMES

    @property
    def scheme(self) -> str:
        return self.address.reveal().partition(":")[0]

    @property
    def address(self) -> Secret:
        """The URL, wherever it was given; it shows itself redacted."""
        address = one_of(self, "url", "url_file", required=True)
        assert address is not None
        return address

    @property
    def addresses(self) -> tuple[Secret, ...]:
        """The URL and its backup, in this order."""
        backup = one_of(self, "backup_url", "backup_url_file", required=False)
        return (self.address,) if backup is None else (self.address, backup)

    @property
    def key(self) -> Secret | None:
        """The stream key, unless the URL ends in it."""
        keys = ("stream_key", "stream_key_file", "stream_key_env", "stream_key_credential")
        return one_of(self, *keys, required=False)

    @property
    def bearer(self) -> Secret | None:
        """The token of a WHIP output."""
        return one_of(self, "token", "token_file", "token_env", "token_credential", required=False)


class SlateConfig(Model):
    """What viewers see while the avatar is away.

    picture  card: a drawn one.  last: the last live picture.  image, clip: from that file, fitted into the live size.
    after_s  without pictures; until then the last one is held.
    """

    picture: Literal["card", "last", "image", "clip"] = "card"
    image: Path | None = None
    clip: Path | None = None
    after_s: float = Field(default=1.0, ge=0.5, le=60.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for picture in ("image", "clip"):
            if (self.picture == picture) != (getattr(self, picture) is not None):
                raise ValueError(f"picture: {picture} and a file in {picture} go together")
        return self


def below_storage_dir(output: OutputConfig) -> OutputConfig:
    scheme, _, name = output.address.reveal().partition(":")
    if scheme == "file":
        apply(check_is_below, name)
    return output
