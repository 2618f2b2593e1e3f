"""`clip:` what is said in a clip that NavTalk's video generation renders."""

from collections.abc import Awaitable, Callable

from bridge.errors import ProviderRejected, SourceRejected
from bridge.inputs.file import FileSource
from bridge.media.audio import AudioBlock
from bridge.net.clips import Clip


class ClipSource:
    """Plays the sound of a clip once that is there: the first time it is rendered, which takes half a minute, and kept.

    A service that is away is asked again, ever more rarely: an order costs money.
    """

    is_live = False

    def __init__(self, name: str, clip: Clip, *, loop: bool, start_s: float) -> None:
        self.name = name
        self._clip = clip
        self._file = FileSource(name, clip.path, loop=loop, start_s=start_s)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected for what cannot be rendered, or not be played."""
        try:
            await self._clip.keep()
        except ProviderRejected as error:
            raise SourceRejected(f"input {self.name}: {error}") from None
        await self._file.run(emit)
