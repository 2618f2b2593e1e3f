"""Outputs that come in API calls: whoever sends them may publish, not read this machine or reach its neighbours.

Keys that read a file, the environment or a credential are refused, and so is `${}`. Secrets stand there as they are, or
are named from the file's `secrets`; nothing shows them again. Recordings stay below `storage.dir`, URLs are judged by
the URL policy.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ValidationError

from bridge.config import IceServer, OutputConfig, SecretConfig
from bridge.config_file import explain_each
from bridge.errors import ConfigError
from bridge.media.recording_name import check_is_below, name_at
from bridge.net.url_policy import UrlPolicy
from bridge.ops.named_secrets import NAMED_SCHEMA, Keys, NamedSecrets, misled
from bridge.ops.problems import Problem, invalid

# Deeper than any session with the schemas of its tools; JSON of a megabyte can hold half a million brackets.
_MOST_DEPTH = 16
_READS_SECRETS = re.compile(r".*_(file|env|credential)")
_ICE_SCHEMES = frozenset({"stun", "stuns", "turn", "turns"})


class HostileOutputs:
    """Reads outputs out of the bodies of requests."""

    def __init__(self, storage_dir: Path, policy: UrlPolicy, secrets: Mapping[str, SecretConfig]) -> None:
        self._storage_dir = storage_dir
        self._policy = policy
        self._secrets = NamedSecrets(secrets)

    async def read(self, tree: Mapping[str, Any]) -> OutputConfig:
        """Raises Problem that names the fields."""
        if mistakes := list(forbidden(tree, ())):
            raise invalid(mistakes)
        with_secrets, mistakes = self._secrets.put_in(tree)
        if mistakes:
            raise invalid(mistakes)
        try:
            output = OutputConfig.model_validate(with_secrets)
        except ValidationError as error:
            raise invalid(explain_each(error, OutputConfig)) from None
        await self.judge(output)
        return output

    async def judge(self, output: OutputConfig) -> None:
        """See where it leads. Raises Problem that names the fields."""
        for key, address in zip(("url", "backup_url"), output.addresses, strict=False):
            with blaming(key):
                await self._check_place(address.reveal())
        await check_ice_servers(output.ice_servers or (), self._policy)
        if output.is_whep and any(server.password and server.password.hosts for server in output.ice_servers or ()):
            raise invalid([(("ice_servers",), "viewers are told what stands here, and a named secret is not theirs")])
        if mistakes := list(misled(output)):
            raise invalid(mistakes)

    async def _check_place(self, url: str) -> None:
        scheme, _, rest = url.partition(":")
        if scheme == "file":
            check_is_below(rest)
            await asyncio.to_thread(check_links, self._storage_dir, name_at(rest, datetime.now(UTC)))
        elif scheme == "hls":
            await asyncio.to_thread(check_links, self._storage_dir, rest)
        elif scheme != "whep":
            await self._policy.check(url, schemes=frozenset({scheme}))


async def check_ice_servers(servers: Iterable[IceServer], policy: UrlPolicy) -> None:
    """Raises Problem that names the server."""
    for number, server in enumerate(servers):
        for url in server.urls:
            with blaming("ice_servers", number, "urls"):
                await policy.check(url, schemes=_ICE_SCHEMES)


@contextmanager
def blaming(*keys: str | int) -> Iterator[None]:
    """A URL or a path at these keys is judged, or a part that stands there. Raises Problem that names them."""
    try:
        yield
    except ConfigError as error:
        raise invalid([(keys, str(error))]) from None
    except OSError as error:
        raise invalid([(keys, f"the host has no address: {error.strerror or 'no answer in time'}")]) from None
    except Problem as problem:
        raise invalid([((*keys, *place), message) for place, message in problem.mistakes]) from None


def forbidden(value: Any, path: Keys) -> Iterator[tuple[Keys, str]]:
    """What no stranger may write, wherever it stands."""
    if len(path) > _MOST_DEPTH:
        yield path, "is nested too deeply"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if _READS_SECRETS.fullmatch(key):
                yield (*path, key), "is only for the configuration file; give the secret itself, without the ending"
            else:
                yield from forbidden(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from forbidden(item, (*path, index))
    elif isinstance(value, str) and "${" in value:
        yield path, "${} is only for the configuration file"


def check_links(directory: Path, name: str) -> None:
    """Raises ConfigError for a name that no file can have, or that leads through a link, and so perhaps elsewhere."""
    path = directory
    for part in PurePath(name).parts:
        path = path / part
        try:
            is_link = path.is_symlink()
        except OSError as error:
            raise ConfigError(f"cannot write there: {error.strerror}") from None
        if is_link:
            raise ConfigError(f"{name} leads through a link")


def hostile_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of what API calls may say of a model."""
    schema = model.model_json_schema()
    return _without_files(schema, schema.pop("$defs", {}))


def _without_files(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("pattern") == r"\$\{" or schema.get("format") == "uri":
        return {"anyOf": [{key: value for key, value in schema.items() if key != "pattern"}, NAMED_SCHEMA]}
    bare: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            bare[key] = {
                name: _without_files(item, definitions)
                for name, item in value.items()
                if not _READS_SECRETS.fullmatch(name)
            }
        elif isinstance(value, Mapping):
            bare[key] = _without_files(value, definitions)
        elif isinstance(value, list):
            bare[key] = [_without_files(item, definitions) if isinstance(item, Mapping) else item for item in value]
        else:
            bare[key] = value
    return bare
