"""Measurements of what the project claims: `python -m benchmarks.NAME`, all of them by `make bench`.

Each prints a table and, as its last line, one JSON object of named figures. Media flows over loopback; senders
replay pre-encoded media from a process of their own, so that only the bridge, or its peer, is measured.
"""
