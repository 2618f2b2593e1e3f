"""Why the system could not do what it was asked."""

import os
import socket


def root_cause(error: BaseException) -> BaseException:
    """What the system said, below the errors of the layers above it."""
    while below := error.__cause__ or error.__context__:
        error = below
    # Each address of a name may have failed in its own way.
    return root_cause(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def system_reason(error: BaseException) -> str:
    """In the system's words, without the addresses that asyncio puts into its text."""
    cause = root_cause(error)
    if isinstance(cause, TimeoutError) and cause.errno is None:
        return "no answer in time"
    # The resolver's numbers are its own.
    number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) else None
    return os.strerror(number) if number else getattr(cause, "strerror", None) or type(cause).__name__
