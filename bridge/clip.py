"""`avatar-bridge clip`: one clip of NavTalk's video generation, with what there is to see of it meanwhile."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bridge.config import ClipConfig
from bridge.inputs import open_clip
from bridge.net.rest import line_of
from bridge.net.url_policy import UrlPolicy
from bridge.protocols.navtalk_clips import Task


async def run_clip(config: ClipConfig, out: Path) -> None:
    """Order, wait, download; a progress bar on a terminal. Prints the file. Raises ConfigError, ProviderRejected,
    ProviderUnavailable, RemoteProtocolError.
    """
    clip = open_clip(config, out.parent, UrlPolicy(), out)
    console = Console(stderr=True)
    words = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = progress.add_task("ordered", total=None)
        told = ""

        def on_task(task: Task) -> None:
            nonlocal told
            status = line_of(task.message) or task.status.value
            progress.update(shown, description=status)
            if status != told and not console.is_terminal:
                console.print(f"clip {status}", highlight=False, markup=False, soft_wrap=True)
            told = status

        def on_bytes(done: int, size: int) -> None:
            progress.update(shown, description="downloading", completed=done, total=size or None)

        await clip.fetch(on_task, on_bytes)
    print(out)
