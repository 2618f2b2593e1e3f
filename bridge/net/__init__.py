"""Shared plumbing of the network: WebRTC peers, what guards them, and how to wait between attempts.

The only package that touches names which aiortc and aioice keep to themselves; each module lists those it uses in
`PRIVATE_NAMES`, and tests/net/test_contract.py pins them.
"""
