"""Inputs that come in API calls: whoever sends them may make the avatar hear what is public, or lies in `storage.dir`.

They may listen neither to this machine's devices nor to its pipes, and reach neither its neighbours nor other files.
"""

import asyncio
from pathlib import Path

from bridge.config import InputConfig
from bridge.errors import ConfigError
from bridge.media.recording_name import check_is_below
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile import blaming, check_links
from bridge.protocols import input_urls


class HostileInputs:
    """Judges inputs out of the bodies of requests; `open_source` is to be told that they are strange."""

    def __init__(self, storage_dir: Path, policy: UrlPolicy) -> None:
        self._storage_dir = storage_dir
        self._policy = policy

    async def judge(self, source: InputConfig) -> None:
        """See where it leads. Raises Problem that names the field."""
        with blaming("url"):
            await self._check_place(source.url.reveal())

    async def _check_place(self, url: str) -> None:
        scheme = url.partition(":")[0]
        # The machine's own ears, and what is rendered for money.
        if scheme in (*input_urls.MACHINE_SCHEMES, "clip"):
            raise ConfigError(f"{scheme}: is only for the configuration file")
        if scheme in input_urls.NETWORK_SCHEMES:
            await self._policy.check(url, schemes=frozenset({scheme}))
        elif (name := input_urls.local_path(url)) is not None:
            check_is_below(name)
            await asyncio.to_thread(check_links, self._storage_dir, name)
