"""Inputs that come in API calls: whoever sends them may make the avatar hear what is public, or lies in `storage.dir`.

They may listen neither to this machine's devices nor to its pipes, and reach neither its neighbours nor other files.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bridge.config import InputConfig
from bridge.config_file import explain_each
from bridge.errors import ConfigError
from bridge.media.recording_name import check_is_below
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile import check_links, forbidden
from bridge.ops.problems import invalid
from bridge.protocols import input_urls


class HostileInputs:
    """Reads inputs out of the bodies of requests; `open_source` is to be told that they are strange."""

    def __init__(self, storage_dir: Path, policy: UrlPolicy) -> None:
        self._storage_dir = storage_dir
        self._policy = policy

    async def read(self, tree: Mapping[str, Any]) -> InputConfig:
        """Raises Problem that names the fields."""
        if mistakes := list(forbidden(tree, ())):
            raise invalid(mistakes)
        try:
            source = InputConfig.model_validate(tree)
        except ValidationError as error:
            raise invalid(explain_each(error, InputConfig)) from None
        try:
            await self._check_place(source.url.reveal())
        except ConfigError as error:
            raise invalid([(("url",), str(error))]) from None
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise invalid([(("url",), f"the host has no address: {reason}")]) from None
        return source

    async def _check_place(self, url: str) -> None:
        scheme = url.partition(":")[0]
        if scheme in input_urls.MACHINE_SCHEMES:
            raise ConfigError(f"{scheme}: is only for the configuration file")
        if scheme in input_urls.NETWORK_SCHEMES:
            await self._policy.check(url, schemes=frozenset({scheme}))
        elif (name := input_urls.local_path(url)) is not None:
            check_is_below(name)
            await asyncio.to_thread(check_links, self._storage_dir, name)
