"""Failure model: the type of an error says who must act.

BridgeError
  ConfigError             operator: the command line or the file is wrong (names file, line, key)
  SourceError
    SourceRejected        operator: no such file, no audio in it                files: not retried; others: rarely
    SourceLost            remote: the source ended, stalled or reset            retried
    SourceTaken           remote: another one sends to this input               retried
  ProviderError
    ProviderRejected      operator: licence, balance, unknown avatar            not retried
    ProviderUnavailable   remote: refused, timed out, closed                    retried
  OutputError
    OutputRejected        operator: stream key, disk full, unsupported codec    not retried
    OutputLost            remote: refused, reset, timed out                     retried
      OutputWedged        remote: connected, and nothing moves                  retried
  RemoteProtocolError     remote broke its own protocol                         retried, counted
  InternalError           us: a bug; ends the session, the daemon restarts it
    LocalProtocolError    we tried to send what the protocol forbids

The message of every error names the thing that failed and what to do about it, and holds no secret:
URLs in it went through `bridge.redact.redact_url`.
"""

from typing import ClassVar


class BridgeError(Exception):
    """Anything this program raises on purpose.

    reason  one word for the metrics, where the type says too little; never what a peer wrote.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(BridgeError):
    """The operator's command line or configuration is wrong."""


class SourceError(BridgeError):
    """No audio from an input."""


class SourceRejected(SourceError):
    """The operator must change the input: it does not exist, cannot be read or holds no audio."""


class SourceLost(SourceError):
    """The input was there and went away."""

    retryable = True


class SourceTaken(SourceError):
    """Somebody else sends to this input."""

    retryable = True


class ProviderError(BridgeError):
    """The avatar service cannot be used."""


class ProviderRejected(ProviderError):
    """The operator must act: licence, balance or avatar name."""


class ProviderUnavailable(ProviderError):
    """The service is away or full for now."""

    retryable = True


class OutputError(BridgeError):
    """An output cannot publish."""


class OutputRejected(OutputError):
    """The operator must act: stream key, path, disk or codec."""


class OutputLost(OutputError):
    """The far end of an output is away for now.

    retry_after_s  how long it asked to be left alone; 0: it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, reason: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class OutputWedged(OutputLost):
    """The output is connected and nothing moves."""


class RemoteProtocolError(BridgeError):
    """A peer broke its own protocol."""

    retryable = True


class InternalError(BridgeError):
    """A bug of ours."""


class LocalProtocolError(InternalError):
    """We were about to send what the protocol forbids."""
