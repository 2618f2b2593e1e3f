"""The configuration of outputs, and of the slate that they show while the avatar is away."""

import re
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import ByteSize, Field, field_validator, model_validator

from bridge.config_clips import ClipConfig
from bridge.config_secrets import CredentialSecret, EnvSecret, FileSecret, LiteralSecret
from bridge.config_values import (
    Bitrate,
    IceServer,
    Model,
    Size,
    SpkiPin,
    Url,
    UrlFile,
    VideoBitrate,
    apply,
    check_host,
    one_of,
    shown_schemes,
)
from bridge.media.recording_name import check_directory, check_is_below, check_name
from bridge.presets import PresetName, find_preset
from bridge.protocols import rtmp_address, srt_url, whip
from bridge.redact import Secret

OUTPUT_SCHEMES = ("rtmp", "rtmps", *whip.SCHEMES, "whep", "srt", "hls", "file")
# What an output has that viewers come to, if it says nothing else.
MAX_VIEWERS = 50

# One group of pictures at the common distance of keyframes. Players stay three segments behind the newest: 6 s.
SEGMENT_S = 2.0
# Five times what a player needs, for one that was paused or loads slowly.
WINDOW_S = 30.0


# What pictures that are copied cannot be given.
ONLY_ENCODED = ("size", "fit", "background", "fps", "bitrate", "overlay", "strict")

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


class OverlayConfig(Model):
    """What is painted over the pictures of an output that is encoded; see `outputs.overlay.OverlaySettings`.

    logo_file     a PNG.  logo_width: its share of the picture's width.
    text          one line.
    captions      what the avatar says, as far as its service tells.
    margin        from the edges, as a share of the picture's shorter side.
    font_file     a TrueType or OpenType file; None: one of the system's.
    """

    logo_file: Path | None = None
    logo_corner: Corner = "top-right"
    logo_width: float = Field(default=0.12, ge=0.01, le=1.0)
    logo_opacity: float = Field(default=1.0, ge=0.0, le=1.0)
    text: str = Field(default="", max_length=120, pattern=r"^[^\x00-\x1f]*$")
    text_corner: Corner = "top-left"
    captions: bool = False
    margin: float = Field(default=0.04, ge=0.0, le=0.4)
    font_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.logo_file and self.text and self.logo_corner == self.text_corner:
            raise ValueError(f"logo and text are both in the corner {self.text_corner}")
        return self


class OutputConfig(Model):
    """One place to publish to.

    url            rtmp://HOST/APP[/KEY], rtmps: likewise, whip+https://HOST/PATH, whip+http: likewise,
                   hls:DIRECTORY,
                   srt://HOST:PORT?mode=caller&latency=MILLISECONDS&streamid=ID&pbkeylen=16,
                   file:NAME.(mp4|mkv|flv|ts); the name may hold `{start:FORMAT}`, the start in UTC as strftime
                   prints it; whep: for players, which come to the HTTP API.
    url_file       a file that holds the URL.
    stream_key     the part of an RTMP URL that is a secret.
    token          what a WHIP server knows us by (RFC 6750).
    passphrase     of an SRT output, what the stream is encrypted with.
    video          auto: pictures are copied where that will do, else encoded.
    size           of pictures; None: as they come, or where that changes and viewers do not follow, as they began.
    fit            how pictures of another shape are shown: all of them with bars (contain), as much of them as covers
                   the size (cover), or all of them on a blurred copy (blur).
    background     colour of the bars, "#RRGGBB".
    fps            pictures a second, at a constant rate, which takes encoding; None: as they come, encoded ones 30.
    bitrate        of encoded pictures, bits per second; None: by size and rate, 3 Mb/s for 1280x720 at 30.
    ice_servers    of a WHIP output, replaces the general list; of a WHEP output, what viewers are told to use.
    max_viewers    of a WHEP output, at a time.
    keyframe_s     how far keyframes may lie apart; the avatar service is asked for copied ones that often.
    audio_bitrate  of AAC, and of Opus while inputs are mixed into it, bits per second; "128k" is 128000.
    autostart      it publishes from the session's start on; otherwise once the operator starts it.
    backup_url     of an RTMP output: tried in turn with `url` after each loss, with the same stream key.
    tls_ca_file    of an RTMPS output: the certificates (PEM) that its server's may be signed by; None: the system's.
    rotate_s, rotate_bytes  of a file output: the next file begins at the first keyframe after so long, or so many
                   bytes; None: there is one file.
    transcript     of a file output: what is said is written beside it, NAME.jsonl and NAME.vtt.
    segment_s, window_s  of an HLS output: how long a segment is, about, and how much of the stream its playlist shows.
    tls_pin_sha256 of an RTMPS output: SHA-256 of public keys (SPKI, as in RFC 7469) in base64, one of which its server
                   must have besides a valid certificate; none: any.
    preset         what is published to: keys that are not set have its values, and what it would object to is said.
    overlay        what is painted over the pictures, which have to be encoded for it.
    strict         what it merely advises against is a reason to encode, as what it rejects is.
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
    passphrase: LiteralSecret | None = None
    passphrase_file: FileSecret | None = None
    passphrase_env: EnvSecret | None = None
    passphrase_credential: CredentialSecret | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    video: Literal["auto", "copy", "encode"] = "auto"
    size: Size | None = None
    fit: Literal["contain", "cover", "blur"] = "contain"
    background: str = Field(default="#000000", pattern=r"^#[0-9a-fA-F]{6}$")
    fps: int | None = Field(default=None, ge=1, le=60)
    bitrate: VideoBitrate | None = None
    max_viewers: int = Field(default=MAX_VIEWERS, ge=1, le=1000)
    keyframe_s: float = Field(default=2.0, ge=0.5, le=60.0)
    audio_bitrate: Bitrate = 128_000
    autostart: bool = True
    backup_url: Url | None = None
    backup_url_file: UrlFile | None = None
    tls_ca_file: Path | None = None
    tls_pin_sha256: tuple[SpkiPin, ...] = ()
    preset: PresetName | None = None
    strict: bool = False
    overlay: OverlayConfig | None = None
    rotate_s: float | None = Field(default=None, ge=1.0)
    rotate_bytes: ByteSize | None = Field(default=None, ge=2**20)
    transcript: bool = True
    segment_s: float = Field(default=SEGMENT_S, ge=0.5, le=30.0)
    window_s: float = Field(default=WINDOW_S, ge=3.0, le=86_400.0)

    @model_validator(mode="before")
    @classmethod
    def _take_defaults_of_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") not in get_args(PresetName):
            return given
        defaults = dict(find_preset(given["preset"]).defaults)
        if "url_file" in given:
            defaults.pop("url", None)
        if given.get("video") == "copy":
            defaults.pop("bitrate", None)
        return {**defaults, **given}

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
        if scheme == "hls":
            apply(check_directory, rest)
            return url
        if scheme in whip.SCHEMES:
            apply(whip.parse_url, url.reveal())
            check_host(url.reveal())
            return url
        if scheme == "srt":
            check_host(url.reveal())
            return url
        if scheme == "whep":
            if rest:
                raise ValueError("is whep: and nothing else: viewers come to the HTTP API, by the output's name")
            return url
        if not re.fullmatch(r"//[^/]+/[^/].*", rest):
            raise ValueError(f"must be {scheme}://HOST/APP, with the stream key behind it or in stream_key_file")
        check_host(url.reveal())
        # Whether a key is missing is seen when all keys are read.
        apply(rtmp_address.parse_url, url.reveal(), "any")
        return url

    @model_validator(mode="after")
    def _check(self) -> Self:
        fields = type(self).model_fields
        if self.video == "copy" and any(getattr(self, key) != fields[key].default for key in ONLY_ENCODED):
            raise ValueError(f"video: copy takes none of {', '.join(ONLY_ENCODED)}, which only encoding can keep")
        if self.is_whip:
            apply(whip.parse_url, self.address.reveal(), self.bearer.reveal() if self.bearer else None)
        elif self.bearer is not None or (self.ice_servers is not None and not self.is_whep):
            raise ValueError("token and ice_servers are for whip+https: and whip+http: alone (the latter whep: too)")
        if not self.is_whep and self.max_viewers != MAX_VIEWERS:
            raise ValueError("max_viewers is for whep: alone")
        self._check_rtmp()
        if self.preset is not None and self.scheme == "file":
            raise ValueError("a preset is for what is published, not for a file")
        if self.strict and self.preset is None:
            raise ValueError("strict is about what a preset advises: preset is needed")
        if self.scheme == "srt":
            secret = self.cipher_passphrase
            apply(srt_url.parse_url, self.address.reveal(), secret.reveal() if secret else None)
        elif self.cipher_passphrase is not None:
            raise ValueError("a passphrase is for srt: alone")
        if self.scheme != "file" and (self.rotate_s or self.rotate_bytes or not self.transcript):
            raise ValueError("rotate_s, rotate_bytes and transcript are for file: alone")
        self._check_hls()
        return self

    def _check_hls(self) -> None:
        if self.scheme != "hls":
            if (self.segment_s, self.window_s) != (SEGMENT_S, WINDOW_S):
                raise ValueError("segment_s and window_s are for hls: alone")
        elif self.segment_s < self.keyframe_s:
            raise ValueError("segment_s must be keyframe_s at least: a segment begins with a keyframe")
        elif self.window_s < 3 * self.segment_s:
            raise ValueError("window_s must be three times segment_s at least: players need three segments")

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
            has = "a WHIP server has a token, " if self.is_whip else f"{self.scheme}: has "
            raise ValueError(f"{has}no stream key")

    @property
    def is_whip(self) -> bool:
        return self.scheme in whip.SCHEMES

    @property
    def waits_for_caller(self) -> bool:
        """Whether the far end connects to us."""
        return self.scheme == "srt" and srt_url.is_listener(self.address.reveal())

    @property
    def is_whep(self) -> bool:
        return self.scheme == "whep"

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

    @property
    def cipher_passphrase(self) -> Secret | None:
        """The passphrase of an SRT output, unless the URL holds it."""
        keys = ("passphrase", "passphrase_file", "passphrase_env", "passphrase_credential")
        return one_of(self, *keys, required=False)


class SlateConfig(Model):
    """What viewers see while the avatar is away.

    picture  card: a drawn one.  last: the last live picture.  image, clip: from that file, fitted into the live size.
    rendering  in place of a clip's file: what is to be rendered; until it is there, the card is shown.
    after_s  without pictures; until then the last one is held.
    """

    picture: Literal["card", "last", "image", "clip"] = "card"
    image: Path | None = None
    clip: Path | None = None
    rendering: ClipConfig | None = None
    after_s: float = Field(default=1.0, ge=0.5, le=60.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clip is not None and self.rendering is not None:
            raise ValueError("clip and rendering exclude each other")
        files = {"image": self.image, "clip": self.clip or self.rendering}
        for picture, file in files.items():
            if (self.picture == picture) != (file is not None):
                also = ", or a rendering," if picture == "clip" else ""
                raise ValueError(f"picture: {picture} and a file in {picture}{also} go together")
        return self


def below_storage_dir(output: OutputConfig) -> OutputConfig:
    scheme, _, name = output.address.reveal().partition(":")
    if scheme == "file":
        apply(check_is_below, name)
    return output
