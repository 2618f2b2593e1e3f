"""Routes of the API: WebRTC publishers send sound to a session's input (RFC 9725)."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from bridge.errors import RemoteProtocolError, SourceTaken
from bridge.ops import media_sessions
from bridge.ops.control import ControlledDaemon
from bridge.ops.media_sessions import Reach
from bridge.ops.problems import Problem
from bridge.ops.sessions_api import find_running
from bridge.ports import MediaSession, PublishingPoint
from bridge.protocols.whip_ingest import check_offer

# A publisher that has crashed is silent, and makes room, by then.
RETRY_AFTER_S = 2

_ENDPOINT = "/sessions/{name}/whip/{input}"
_SESSION = _ENDPOINT + "/{publication_id}"


def whip_routes(daemon: ControlledDaemon, may_reach: Reach) -> APIRouter:
    router = APIRouter(prefix="/v1", responses={"default": {"description": "A problem document (RFC 9457)"}})

    def point(name: str, input: str) -> PublishingPoint:
        source = find_running(daemon, name).source(input)
        if source is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no input {input}")
        if not isinstance(source, PublishingPoint):
            raise Problem(HTTPStatus.NOT_FOUND, f"input {input} takes no publishers: its URL is not whip:")
        return source

    def found(name: str, input: str, publication_id: str) -> tuple[PublishingPoint, MediaSession]:
        found_at = point(name, input)
        publication = found_at.media_session(publication_id)
        if publication is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no such publication to input {input}, or no longer")
        return found_at, publication

    @router.options(_ENDPOINT, response_class=Response)
    async def describe_whip(name: str, input: str) -> Response:
        """What may be done here."""
        point(name, input)
        return media_sessions.description()

    @router.post(_ENDPOINT, status_code=HTTPStatus.CREATED, response_class=Response, openapi_extra=media_sessions.OFFER)
    async def publish(name: str, input: str, request: Request) -> Response:
        """Send sound to an input: an SDP offer of one track, Opus or G.711; the body of the answer is an SDP answer.

        One publisher at a time: while one is heard a second gets 409. Video is declined.
        """
        found_at = point(name, input)
        offer = await media_sessions.read_offer(request)
        try:
            check_offer(offer)
            accepted = await found_at.publish(offer, may_reach)
        except RemoteProtocolError as error:
            raise media_sessions.refusal(error) from None
        except SourceTaken as error:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise Problem(HTTPStatus.CONFLICT, str(error), headers=headers) from None
        return media_sessions.created(request, accepted)

    @router.patch(
        _SESSION, status_code=HTTPStatus.NO_CONTENT, response_class=Response, openapi_extra=media_sessions.FRAGMENT
    )
    async def trickle(name: str, input: str, publication_id: str, request: Request) -> None:
        """Add ICE candidates of the publisher. There is no ICE restart: publish anew."""
        await media_sessions.trickle(request, *found(name, input, publication_id))

    @router.delete(_SESSION, status_code=HTTPStatus.OK, response_class=Response)
    async def unpublish(name: str, input: str, publication_id: str) -> None:
        """End a publication."""
        found_at, _ = found(name, input, publication_id)
        await found_at.end(publication_id)

    return router
