"""`python -m bridge` is `avatar-bridge`."""

from bridge.cli import main

main()
