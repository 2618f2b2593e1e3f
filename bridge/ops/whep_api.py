"""Routes of the API: WebRTC players show what a session sends (draft-ietf-wish-whep, after RFC 9725)."""

import re
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.config import HttpConfig
from bridge.errors import OutputLost, RemoteProtocolError
from bridge.ops import media_sessions
from bridge.ops.access import VIEW_PATH
from bridge.ops.control import ControlledDaemon
from bridge.ops.media_sessions import Reach
from bridge.ops.problems import Problem
from bridge.ops.sessions_api import find_running
from bridge.ports import MediaSession, ViewingPoint

_ENDPOINT = "/sessions/{name}/whep/{output}"
_SESSION = _ENDPOINT + "/{viewing_id}"


def whep_routes(daemon: ControlledDaemon, may_reach: Reach) -> APIRouter:
    router = APIRouter(prefix="/v1", responses={"default": {"description": "A problem document (RFC 9457)"}})

    def point(name: str, output: str) -> ViewingPoint:
        found_output = find_running(daemon, name).output(output)
        if found_output is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no output {output}")
        if not isinstance(found_output, ViewingPoint):
            raise Problem(HTTPStatus.NOT_FOUND, f"output {output} takes no viewers: its URL is not whep:")
        return found_output

    def found(name: str, output: str, viewing_id: str) -> tuple[ViewingPoint, MediaSession]:
        found_at = point(name, output)
        viewing = found_at.media_session(viewing_id)
        if viewing is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no such viewer of output {output}, or no longer")
        return found_at, viewing

    def with_links(response: Response, found_at: ViewingPoint) -> Response:
        for link in found_at.ice_links:
            response.headers.append("Link", link)
        return response

    @router.options(_ENDPOINT, response_class=Response)
    async def describe_whep(name: str, output: str) -> Response:
        """What may be done here, and which ICE servers a viewer may use."""
        return with_links(media_sessions.description(), point(name, output))

    @router.post(_ENDPOINT, status_code=HTTPStatus.CREATED, response_class=Response, openapi_extra=media_sessions.OFFER)
    async def watch(name: str, output: str, request: Request) -> Response:
        """See and hear an output, `preview` in every session: an SDP offer to receive H.264, Opus or both; the body of
        the answer is an SDP answer.

        406: the pictures are of a codec or profile that the offer does not decode. 503 with Retry-After: there are as
        many viewers as there may be, or there is no picture yet.
        """
        found_at = point(name, output)
        offer = await media_sessions.read_offer(request)
        try:
            accepted = await found_at.watch(offer, may_reach)
        except RemoteProtocolError as error:
            raise media_sessions.refusal(error) from None
        except OutputLost as error:
            headers = {"Retry-After": str(round(error.retry_after_s) or 1)}
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers=headers) from None
        return with_links(media_sessions.created(request, accepted), found_at)

    @router.patch(
        _SESSION, status_code=HTTPStatus.NO_CONTENT, response_class=Response, openapi_extra=media_sessions.FRAGMENT
    )
    async def trickle_to_viewer(name: str, output: str, viewing_id: str, request: Request) -> None:
        """Add ICE candidates of the viewer. There is no ICE restart: watch anew."""
        await media_sessions.trickle(request, *found(name, output, viewing_id))

    @router.delete(_SESSION, status_code=HTTPStatus.OK, response_class=Response)
    async def leave(name: str, output: str, viewing_id: str) -> None:
        """See no more."""
        found_at, _ = found(name, output, viewing_id)
        await found_at.end(viewing_id)

    return router


class ViewerCors:
    """Lets pages of `allowed_hosts` play, and nothing else: the Fetch standard's CORS, for the paths of viewers alone.

    It stands before everything that may refuse, so that a page is told why. What it answers by itself, preflights,
    opens nothing: whoever really asks is looked at by `Access`.
    """

    def __init__(self, app: ASGIApp, http: HttpConfig) -> None:
        hosts = "|".join(re.escape(host.lower()) for host in http.allowed_hosts)
        self._app = app
        self._for_pages = CORSMiddleware(
            app,
            allow_origin_regex=rf"https?://(?:{hosts})(?::\d{{1,5}})?",
            allow_methods=("OPTIONS", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "If-Match"),
            expose_headers=("Accept-Patch", "Accept-Post", "ETag", "Link", "Location", "Retry-After"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_for_viewers = scope["type"] == "http" and VIEW_PATH.match(scope["path"])
        await (self._for_pages if is_for_viewers else self._app)(scope, receive, send)
