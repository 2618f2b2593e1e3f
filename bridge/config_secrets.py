"""How a secret reaches the configuration: by file, by environment, by systemd credential, never in the file itself.

A key `license` may thus be written `license_file`, `license_env`, `license_credential`, or `license: ${NAME}`.
Each type below is one of these ways; all of them validate into a `Secret` that shows where it came from.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from bridge.redact import Secret

# A licence, key or URL is short; a path mistyped into a recording should not be read into memory.
_MOST_SECRET_BYTES = 64 * 1024


class Substituted(str):
    """Text that may be a secret where it stands: it holds a value from the environment, or came in an API call."""


def _literal(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, Substituted):
        return _checked(value, "***", "the value")
    raise ValueError("a secret must not stand in the file: use the key with _file, _env or _credential, or ${NAME}")


def read_file(value: Any) -> Secret:
    """The content of a file, the line end at its end removed. Raises ValueError."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str | Path):
        raise ValueError("must be the path of a file")
    path = Path(value)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_SECRET_BYTES + 1)
        if len(content) > _MOST_SECRET_BYTES:
            raise ValueError(f"{path} is larger than {_MOST_SECRET_BYTES} bytes: not a secret")
        return _checked(content.decode(), str(path), str(path))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def _from_env(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("must be the name of an environment variable")
    content = os.environ.get(value)
    if content is None:
        raise ValueError(f"environment variable {value} is not set")
    return _checked(content, value, f"environment variable {value}")


def _from_credential(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError("must be the name of a systemd credential")
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ValueError("there are no systemd credentials: CREDENTIALS_DIRECTORY is not set; see LoadCredential=")
    content = read_file(os.path.join(directory, value)).reveal()
    return Secret(content, value)


def _checked(content: str, shown: str, origin: str) -> Secret:
    content = content.rstrip("\r\n")
    if not content.strip():
        raise ValueError(f"{origin} is empty")
    # It goes into URLs and protocol messages: a second line is a mistake that a server would report strangely.
    if any(ord(character) < 0x20 for character in content):
        raise ValueError(f"{origin} holds more than one line, or control characters")
    return Secret(content, shown)


LiteralSecret = Annotated[Secret, BeforeValidator(_literal), WithJsonSchema({"type": "string", "pattern": r"\$\{"})]
FileSecret = Annotated[Secret, BeforeValidator(read_file), WithJsonSchema({"type": "string", "format": "path"})]
EnvSecret = Annotated[Secret, BeforeValidator(_from_env), WithJsonSchema({"type": "string"})]
CredentialSecret = Annotated[Secret, BeforeValidator(_from_credential), WithJsonSchema({"type": "string"})]
