"""Files that are replaced as a whole."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Put a file, for its owner alone (0600), in the place of the one at `path`; blocks.

    Whenever the machine stops there is the old one or the new one. Raises OSError; then the old one stays.
    """
    # In the same directory, so that it can take the other's place at once.
    handle, name = tempfile.mkstemp(prefix=f".{path.name.removeprefix('.')}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
