"""How sessions with NavTalk end: as errors that say which service, why, and what to do about it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from bridge.errors import BridgeError, ProviderError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.protocols import navtalk
from bridge.redact import mask

# WebSocket close codes that we send when the other end broke the framing, the text coding or the size limit
# (RFC 6455 §7.4.1).
_BROKEN_FRAMES = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)
# What the operator, or nobody, has to do about an end.
_ADVICE: Mapping[navtalk.End, str] = {
    navtalk.End.FAIL: "check the licence, avatar.name and avatar.avatar_id",
    navtalk.End.CLOSE: "the service ended it",
    navtalk.End.INSUFFICIENT_BALANCE: "top up the account of this licence",
    navtalk.End.GPU_FULL: "the service is full for now",
    navtalk.End.CONNECTION_LIMIT_EXCEEDED: "too many sessions of this licence are open",
    navtalk.End.BACKEND_ERROR: "the service has a fault of its own",
    navtalk.End.DISCONNECTED: "the connection is gone",
}


def end_of(closed: ConnectionClosed, where: str) -> navtalk.Ended | BridgeError:
    """What a closed WebSocket comes to: the service's end of the session, or an error of the connection's own."""
    if closed.sent is not None and not closed.rcvd_then_sent:
        if closed.sent.code in _BROKEN_FRAMES:
            what = f"{where} broke the WebSocket protocol: {closed.sent.reason}"
            return RemoteProtocolError(what, reason="protocol")
        if closed.rcvd is None:
            what = f"{where} does not answer any more: {closed.sent.reason}"
            return ProviderUnavailable(what, reason=navtalk.End.DISCONNECTED.value)
    said = closed.rcvd.reason if closed.rcvd is not None else ""
    if closed.rcvd is not None and closed.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
        said = f"our message was too long for the service: {said}"
    return navtalk.Ended(navtalk.End.DISCONNECTED, said)


def ended_error(ended: navtalk.Ended, where: str, awaited: str | None = None) -> ProviderError:
    """The error that an end is to the session. `awaited`: the step of the hand-shake that was to come."""
    said = f' ("{mask(ended.message)[:200]}")' if ended.message else ""
    when = f" while {awaited} was awaited" if awaited else ""
    error = ProviderRejected if ended.is_permanent else ProviderUnavailable
    what = f"{where} ended the session{when}: {ended.end}{said}; {_ADVICE[ended.cause]}"
    return error(what, reason=ended.cause.value)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Say in errors of the media connection which service they are about."""
    try:
        yield
    except BridgeError as error:
        raise type(error)(f"{where}: {error}", reason=error.reason or "media") from error


def cause_of(group: ExceptionGroup) -> Exception:
    """What the session is to be told: the end that lasts, else the first; a bug is shown whole."""
    known = [error for error in group.exceptions if isinstance(error, BridgeError)]
    if len(known) < len(group.exceptions):
        return group
    return next((error for error in known if not error.retryable), known[0])
