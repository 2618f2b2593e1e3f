"""The daemon as `run` runs it, and at its end each session's status as one line of JSON: with exact percentiles.

`python -m benchmarks.bridge_child CONFIG`; with `python -m cProfile -o FILE -m` in front it says where its time goes.
"""

import asyncio
import dataclasses
import json
import sys
from pathlib import Path

from bridge.config_file import load_config
from bridge.daemon import Daemon
from bridge.ops.logs import configure_logging
from bridge.signals import STOP_SIGNALS, on_signals


async def run(path: Path) -> None:
    config = load_config(path)
    configure_logging(config.log.level, config.log.format)
    daemon = Daemon(config)
    with on_signals(STOP_SIGNALS, daemon.stop):
        await daemon.run()
    print(json.dumps({status.name: dataclasses.asdict(status.media) for status in daemon.status()}))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
