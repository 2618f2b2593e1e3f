"""Coverage-guided fuzzing of NavTalk messages. A text that breaks the reader is left in a file `crash-…`.

    python tests/fuzz/atheris_navtalk.py -runs=1000000 /tmp/corpus tests/fuzz/seeds/navtalk

New inputs are kept in the first directory. One that found a bug goes to seeds/navtalk,
under a name made of its content.
"""

import json
import sys
from pathlib import Path
from random import Random

import atheris

# A script finds what lies beside it, and not the root of the tree.
sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["bridge.protocols"]):
    from tests.fuzz.navtalk_messages import broken, read_both_ways

# libFuzzer's own mutations mostly break the JSON, which says nothing about what is inside.
BYTEWISE_SHARE = 0.2


def read(data: bytes) -> None:
    read_both_ways(data.decode("utf-8", "replace"))


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    random = Random(seed)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not message or not isinstance(message, dict) or random.random() < BYTEWISE_SHARE:
        return bytes(atheris.Mutate(data, max_size))
    return json.dumps(broken(message, random)).encode()[:max_size]


if __name__ == "__main__":
    atheris.Setup(sys.argv, read, custom_mutator=mutate)
    atheris.Fuzz()
