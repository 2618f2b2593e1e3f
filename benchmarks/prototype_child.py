"""The prototype's receiver on loopback: `python -m benchmarks.prototype_child DIR ARGUMENT...` runs DIR/rcv_enc.py.

The prototype has no setting for its ICE addresses and takes all but loopback; here it gets loopback alone, as the
bridge does. Nothing else of it is changed.
"""

import runpy
import sys
from pathlib import Path

import aioice.ice


def main() -> None:
    directory, *arguments = sys.argv[1:]
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    program = Path(directory) / "rcv_enc.py"
    sys.path.insert(0, directory)
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    main()
