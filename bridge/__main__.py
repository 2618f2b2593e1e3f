"""`avatar-bridge`, also as `python -m bridge`."""

import os
import signal
import sys
from typing import NoReturn

# Those that go on until they are told to end.
LASTING = ("run", "demo", "avatar", "clip")


def main() -> NoReturn:
    """Run the command line and exit."""
    if sys.argv[1:2] and sys.argv[1] in LASTING:
        # Loading what they need takes a second, and several where the machine is busy. Who is told to end meanwhile has
        # begun nothing, and has not failed. With their event loop they get handlers of their own.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from bridge.cli import main as run

    run()


if __name__ == "__main__":
    main()
