"""Sessions that come in API calls, whole or as patches of those there are: see `bridge.ops.hostile` and its neighbours.

A patch never shows a secret: what it leaves out stays, and is from then on for the hosts alone that got it before. The
part that it touches (the avatar, an input, an output) is judged as if the call had written all of it.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bridge.config import (
    AnyAvatarConfig,
    AvatarConfig,
    IceServer,
    Model,
    OutputConfig,
    SecretConfig,
    SessionConfig,
    WebhookConfig,
)
from bridge.config_avatars import SERVICE_TAG, OwnRoomConfig
from bridge.config_file import explain_each
from bridge.config_origin import Definition, StrangeParts
from bridge.net.url_policy import DEFAULT_PORTS, UrlPolicy, UrlRefused, parse_target
from bridge.ops.hostile import HostileOutputs, blaming, check_ice_servers, forbidden, hostile_schema
from bridge.ops.hostile_inputs import HostileInputs
from bridge.ops.named_secrets import Keys, Mistake, NamedSecrets, misled_avatar, misled_webhook, urls_of
from bridge.ops.problems import invalid
from bridge.redact import Secret, mask

# Each is resolved, and opened, while other changes wait. No programme has more, unless the operator's file says so.
MAX_PARTS = 32
# Names of hosts are looked up one after the other, with 5 s each at most.
JUDGE_TIMEOUT_S = 15.0

# Which of them it is the configuration knows.
_AVATAR_SCHEMES = frozenset({"ws", "wss", "http", "https"})
_ONLY_FILE = "is only for the configuration file"
# What is rendered for money, and files of this machine.
_SLATE_FILES = ("image", "clip", "rendering")
# A secret that is given replaces one that stood under another key.
_ELSEWHERE = ("_file", "_env", "_credential")


class HostileSessions:
    """Reads sessions out of the bodies of requests."""

    def __init__(self, storage_dir: Path, policy: UrlPolicy, secrets: Mapping[str, SecretConfig]) -> None:
        self.outputs = HostileOutputs(storage_dir, policy, secrets)
        self._inputs = HostileInputs(storage_dir, policy)
        self._secrets = NamedSecrets(secrets)
        self._policy = policy

    async def read(self, body: Mapping[str, Any], now: Definition | None = None) -> Definition:
        """A session, or with `now` a patch of that one (RFC 7396). Raises Problem that names the fields."""
        mistakes = [*forbidden(body, ()), *_of_this_machine(body)]
        filled, misnamed = self._secrets.put_in(body)
        if mistakes := [*mistakes, *misnamed]:
            raise invalid(mistakes)
        try:
            config = SessionConfig.model_validate(filled if now is None else merged(now.config, filled))
        except ValidationError as error:
            raise invalid([(_place(keys), words) for keys, words in explain_each(error, SessionConfig)]) from None
        for key in ("inputs", "outputs", "webhooks"):
            _check_number((key,), getattr(config, key), getattr(now.config, key) if now else ())
        strange = _touched(config, now)
        with blaming():
            async with asyncio.timeout(JUDGE_TIMEOUT_S):
                await self._judge(config, strange, now)
        return Definition(config, _together(config, strange, now))

    async def _judge(self, config: SessionConfig, touched: StrangeParts, now: Definition | None) -> None:
        if touched.avatar:
            with blaming("avatar"):
                await self._judge_avatar(config.avatar, now)
        for name in sorted(touched.inputs):
            with blaming("inputs", name):
                await self._inputs.judge(config.inputs[name])
        for name in sorted(touched.outputs):
            with blaming("outputs", name):
                await self.outputs.judge(config.outputs[name])
        for number, webhook in enumerate(config.webhooks if touched.webhooks else ()):
            with blaming("webhooks", number):
                await self._judge_webhook(webhook)

    async def _judge_avatar(self, avatar: AnyAvatarConfig, now: Definition | None) -> None:
        # What it is told besides its licence (queries, prompts, settings) may be meant for its host alone.
        if now is not None and _hosts(now.config.avatar) != _hosts(avatar):
            raise invalid([(("url",), "leads to another host: PUT the session anew")])
        for keys, url in urls_of(avatar):
            with blaming(*keys):
                await self._policy.check(url.reveal(), schemes=_AVATAR_SCHEMES)
        await check_ice_servers(avatar.ice_servers or (), self._policy)
        _check_number(("tools",), avatar.tools, now.config.avatar.tools if now else ())
        if mistakes := list(misled_avatar(avatar)):
            raise invalid(mistakes)
        for number, tool in enumerate(avatar.tools):
            if tool.webhook is not None:
                with blaming("tools", number, "webhook"):
                    await self._judge_webhook(tool.webhook)

    async def _judge_webhook(self, webhook: WebhookConfig) -> None:
        with blaming("url"):
            await self._policy.check(webhook.address.reveal(), schemes=frozenset({"http", "https"}))
        if mistakes := list(misled_webhook(webhook)):
            raise invalid(mistakes)


def _check_number(place: Keys, parts: Collection[object], before: Collection[object]) -> None:
    """Raises Problem where there are too many, and more than before."""
    if len(parts) > max(MAX_PARTS, len(before)):
        raise invalid([(place, f"are more than {MAX_PARTS}")])


def session_schema() -> dict[str, Any]:
    """JSON Schema of what API calls may say of a session."""
    schema = hostile_schema(SessionConfig)
    for key in _SLATE_FILES:
        del schema["properties"]["slate"]["properties"][key]
    return schema


def shown(config: SessionConfig) -> dict[str, Any]:
    """A session in the shape of the configuration, as it was given, with secrets masked."""
    tree: dict[str, Any] = _masked(config.model_dump(mode="json", exclude_unset=True))
    return tree


def merged(value: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396) of a configuration, of which what is not touched stays the same object."""
    if not isinstance(patch, Mapping):
        return patch
    tree = _keys(value) if isinstance(value, Model) else dict(value) if isinstance(value, Mapping) else {}
    for key, item in patch.items():
        for ending in _ELSEWHERE:
            tree.pop(key + ending, None)
        if item is None:
            tree.pop(key, None)
        else:
            tree[key] = merged(tree.get(key), item)
    return tree


def _keys(model: Model) -> dict[str, Any]:
    """What is set of a model. Its secrets are for those who get them now; of a URL all is told by the URL itself."""
    hosts = _hosts(model)

    def bound(key: str, value: Any) -> Any:
        if isinstance(value, Secret):
            return value if "url" in key or value.hosts is not None else value.only_for(hosts)
        if isinstance(value, tuple):
            return [_keys(item) if isinstance(item, Model) else item for item in value]
        return dict(value) if isinstance(value, Mapping) else value

    return {key: bound(key, getattr(model, key)) for key in model.model_fields_set}


def _hosts(model: Model) -> frozenset[str]:
    """Who gets the secrets of a part."""
    match model:
        case OutputConfig():
            urls = [address.reveal() for address in model.addresses]
        case IceServer():
            urls = [*model.urls]
        case WebhookConfig():
            urls = [model.address.reveal()]
        case AvatarConfig():
            urls = [url.reveal() for _, url in urls_of(model)]
        case OwnRoomConfig():
            urls = [model.url.reveal()]
        case _:
            urls = []
    return frozenset(host for url in urls for host in _host(url))


def _host(url: str) -> Iterator[str]:
    try:
        yield parse_target(url, frozenset(DEFAULT_PORTS)).host
    except UrlRefused:
        return  # a file, or what only the operator may write: nobody else gets what belongs to it


def _touched(config: SessionConfig, now: Definition | None) -> StrangeParts:
    """What is another part now than before."""
    if now is None:
        return StrangeParts(True, frozenset(config.inputs), frozenset(config.outputs), True)
    before = now.config
    return StrangeParts(
        config.avatar != before.avatar,
        frozenset(name for name, source in config.inputs.items() if before.inputs.get(name) != source),
        frozenset(name for name, output in config.outputs.items() if before.outputs.get(name) != output),
        config.webhooks != before.webhooks,
    )


def _together(config: SessionConfig, touched: StrangeParts, now: Definition | None) -> StrangeParts:
    if now is None:
        return touched
    return StrangeParts(
        touched.avatar or now.strange.avatar,
        (touched.inputs | now.strange.inputs) & config.inputs.keys(),
        (touched.outputs | now.strange.outputs) & config.outputs.keys(),
        touched.webhooks or now.strange.webhooks,
    )


def _of_this_machine(body: Mapping[str, Any]) -> Iterator[Mistake]:
    for key in _SLATE_FILES:
        if _mapping(body.get("slate")).get(key) is not None:
            yield ("slate", key), _ONLY_FILE
    for name, source in _mapping(body.get("inputs")).items():
        if _mapping(source).get("rendering") is not None:
            yield ("inputs", name, "rendering"), _ONLY_FILE


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _place(keys: Keys) -> Keys:
    """Without what pydantic puts between them: that it is a key's name, and which service's model was meant."""
    return tuple(key for key in keys if key != "[key]" and not str(key).startswith(SERVICE_TAG))


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask(value) if isinstance(value, str) else value
