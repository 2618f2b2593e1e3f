"""Secrets that API calls name in place of their own: `{"secret": NAME}`, with NAME from the configuration's `secrets`.

Whoever may call the API can thus use a secret that they do not know, and must not be able to send it to themselves: it
goes to its `hosts` and nowhere else, and no answer tells anything of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge.config import (
    AnyAvatarConfig,
    AvatarConfig,
    HeyGenConfig,
    IceServer,
    LiveAvatarConfig,
    LiveKitConfig,
    OutputConfig,
    SecretConfig,
    WebhookConfig,
)
from bridge.config_avatars import LicensedConfig
from bridge.config_secrets import Substituted
from bridge.net.url_policy import DEFAULT_PORTS, UrlRefused, parse_target
from bridge.redact import Secret

Keys = tuple[str | int, ...]
Mistake = tuple[Keys, str]

NAMED_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "A secret of the configuration's `secrets`, by its name.",
    "properties": {"secret": {"type": "string"}},
    "required": ["secret"],
    "additionalProperties": False,
}
# Keys whose value is all of a URL, and may be a secret as a whole: WHIP endpoints, RTMP URLs that end in the key.
_URL_KEYS = frozenset({"url", "backup_url"})
# Of an avatar, what is passed on to its model or service as it stands there.
_FREE_KEYS = frozenset({"parameters", "shapes", "session"})


class NamedSecrets:
    """Puts secrets into the bodies of requests."""

    def __init__(self, secrets: Mapping[str, SecretConfig]) -> None:
        self._secrets = secrets

    def put_in(self, tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
        """The same tree, in which secrets stand where they are named, and text may stand where a secret must.

        What is wrong with the names is told with its place, and repeats neither them nor the secrets.
        """
        mistakes: list[Mistake] = []

        def filled(value: Any, path: Keys) -> Any:
            if isinstance(value, Mapping):
                if path[0] == "avatar" and path[-1] in _FREE_KEYS:
                    return value
                if "secret" in value and not _is_webhook(path):
                    return named(value, path)
                return {key: filled(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list):
                return [filled(item, (*path, index)) for index, item in enumerate(value)]
            return Substituted(value) if isinstance(value, str) else value

        def named(value: Mapping[str, Any], path: Keys) -> Secret | None:
            try:
                return self._named(value, is_url=path[-1] in _URL_KEYS)
            except ValueError as error:
                mistakes.append((path, str(error)))
                return None

        return {key: filled(item, (key,)) for key, item in tree.items()}, mistakes

    def _named(self, value: Mapping[str, Any], *, is_url: bool) -> Secret:
        name = value["secret"]
        if len(value) > 1 or not isinstance(name, str):
            raise ValueError('a secret is named as {"secret": NAME}, and nothing beside it')
        if name not in self._secrets:
            # What was sent may be the secret itself, by mistake.
            known = ", ".join(self._secrets) or "none"
            raise ValueError(f"no secret of that name is in the configuration; there is {known}")
        secret = self._secrets[name].value
        assert secret.hosts is not None
        # Where the operator keeps it is not for callers to see.
        return _as_url(name, secret) if is_url else Secret(secret.reveal()).only_for(secret.hosts)


def _is_webhook(path: Keys) -> bool:
    """Whether what stands there has a key `secret` of its own."""
    return path[-1] == "webhook" or path[-2:-1] == ("webhooks",)


def _as_url(name: str, secret: Secret) -> Secret:
    """The secret as a URL that leads to one of its hosts. Raises ValueError, which says nothing of the URL."""
    assert secret.hosts is not None
    try:
        target = parse_target(secret.reveal(), frozenset(DEFAULT_PORTS))
    except UrlRefused:
        raise ValueError(f"the secret {name} is no URL with a host") from None
    if target.host not in secret.hosts:
        raise ValueError(f"the secret {name} is a URL of a host that is none of its own")
    return Secret.url(secret.reveal()).only_for(secret.hosts)


def misled(output: OutputConfig) -> Iterator[Mistake]:
    """Secrets of an output that its URLs would send to a host that they are not for. Its URLs can be read."""
    addresses = dict(zip(("url", "backup_url"), (address.reveal() for address in output.addresses), strict=False))
    for key, secret in (
        ("stream_key", output.key),
        ("token", output.bearer),
        ("passphrase", output.cipher_passphrase),
    ):
        yield from _misled((key,), secret, addresses)
    yield from _misled_to_servers(output.ice_servers or ())


def misled_avatar(avatar: AnyAvatarConfig) -> Iterator[Mistake]:
    """As `misled`, of an avatar; webhooks of its tools are told apart."""
    urls = {".".join(keys): url.reveal() for keys, url in urls_of(avatar)}
    there = {"url": urls["url"]}
    match avatar:
        case LicensedConfig():
            yield from _misled(("license",), avatar.license_key, urls)
        case LiveKitConfig():
            yield from _misled(("token",), avatar.given_token, there)
            yield from _misled(("api_secret",), avatar.given_secret, there)
        case HeyGenConfig():
            yield from _misled(("api_key",), avatar.given_key, there)
            yield from _misled(("token",), avatar.given_token, there)
        case LiveAvatarConfig():
            yield from _misled(("api_key",), avatar.given_key, there)
            if avatar.room is not None:
                # The service is given a token that is made with it.
                yield from _misled(("room", "api_secret"), avatar.room.given_secret, urls)
    yield from _misled_to_servers(avatar.ice_servers or ())


def urls_of(avatar: AvatarConfig) -> list[tuple[tuple[str, ...], Secret]]:
    """Where an avatar leads, with the keys that say so; what services name themselves is judged where it is used."""
    keys = ("url", "signal_url")
    urls: list[tuple[tuple[str, ...], Secret]] = [
        ((key,), getattr(avatar, key)) for key in keys if key in type(avatar).model_fields
    ]
    if isinstance(avatar, LiveAvatarConfig) and avatar.room is not None:
        urls.append((("room", "url"), avatar.room.url))
    return urls


def misled_webhook(webhook: WebhookConfig) -> Iterator[Mistake]:
    yield from _misled(("secret",), webhook.key, {"url": webhook.address.reveal()})


def _misled_to_servers(servers: Iterable[IceServer]) -> Iterator[Mistake]:
    for number, server in enumerate(servers):
        urls = {f"urls.{index}": url for index, url in enumerate(server.urls)}
        yield from _misled(("ice_servers", number, "credential"), server.password, urls)


def _misled(keys: Keys, secret: Secret | None, urls: Mapping[str, str]) -> Iterator[Mistake]:
    if secret is None or secret.hosts is None:
        return
    for key, url in urls.items():
        if parse_target(url, frozenset(DEFAULT_PORTS)).host not in secret.hosts:
            yield keys, f"this secret is only for {', '.join(sorted(secret.hosts))}; {key} leads elsewhere"
            return
