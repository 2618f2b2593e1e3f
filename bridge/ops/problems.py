"""How the API says no: problem documents (RFC 9457) that name the field, and never repeat what was sent."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from bridge.errors import (
    BridgeError,
    ConfigError,
    OutputRejected,
    ProviderRejected,
    ProviderUnavailable,
    SourceLost,
    SourceTaken,
)
from bridge.redact import mask

MEDIA_TYPE = "application/problem+json"

# What each part of a request is called, for a mistake outside the body.
_PLACES = {"path": "path", "query": "query parameter", "header": "header"}


class Problem(Exception):
    """A request that is refused. `mistakes`: where in the body, as keys from the outside in, and what."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        mistakes: Sequence[tuple[Sequence[str | int], str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.mistakes = mistakes
        self.headers = headers

    def response(self) -> JSONResponse:
        document: dict[str, object] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": mask(self.detail),
        }
        if self.mistakes:
            document["errors"] = [
                {"pointer": _pointer(keys), "detail": mask(message)} for keys, message in self.mistakes
            ]
        return JSONResponse(document, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid(mistakes: Sequence[tuple[Sequence[str | int], str]]) -> Problem:
    """A body that is understood and wrong."""
    told = "; ".join(f"{'.'.join(map(str, keys))}: {message}" if keys else message for keys, message in mistakes)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, told, mistakes)


def problem_of(error: BridgeError) -> Problem:
    """What a session's error means for who asked."""
    match error:
        case ProviderRejected() | SourceTaken():
            return Problem(HTTPStatus.CONFLICT, str(error))
        case ProviderUnavailable() | SourceLost():
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        case ConfigError() | OutputRejected():
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return Problem(HTTPStatus.BAD_GATEWAY, str(error))


def add_handlers(app: FastAPI) -> None:
    """Every way to fail ends in a problem document."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> JSONResponse:
        return problem.response()

    @app.exception_handler(BridgeError)
    async def on_bridge_error(request: Request, error: BridgeError) -> JSONResponse:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _read(error).response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods_of(app, request.url.path)):
            headers = {"Allow": ", ".join(methods)}
        return Problem(HTTPStatus(error.status_code), error.detail, headers=headers).response()

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again, and the server logs it whole.
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug; the log has more").response()


def _methods_of(app: FastAPI, path: str) -> list[str]:
    """Of all that is described of a path, where the router names only the first."""
    described = app.openapi()["paths"].items()
    return sorted(
        method.upper()
        for template, operations in described
        if compile_path(template)[0].match(path)
        for method in operations
    )


def _read(error: RequestValidationError) -> Problem:
    mistakes = []
    for details in error.errors():
        place, *keys = details["loc"]
        message = _message(details)
        if details["type"] == "json_invalid":
            return Problem(HTTPStatus.BAD_REQUEST, f"the body is no JSON, at character {keys[0]}")
        if place == "body":
            mistakes.append((keys, message))
        else:
            mistakes.append(((), f"{_PLACES.get(place, place)} {'.'.join(map(str, keys))}: {message}"))
    return invalid(mistakes)


def _message(details: Mapping[str, str]) -> str:
    match details["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is missing"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "must be a JSON object; Content-Type is application/json"
    message = details["msg"].removeprefix("Input ")
    return message[0].lower() + message[1:]


def _pointer(keys: Sequence[str | int]) -> str:
    """A JSON pointer into the body, as a URI fragment (RFC 6901 §6)."""
    escaped = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    # Keys are what a stranger wrote: only what may stand in a fragment as it is.
    return "#" + "".join(f"/{re.sub(r'[^A-Za-z0-9._~-]', '_', key)[:100]}" for key in escaped)
