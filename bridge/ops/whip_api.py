"""Routes of the API: WebRTC publishers send sound to a session's input (RFC 9725)."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from bridge.errors import RemoteProtocolError, SourceTaken
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.ops.control import ControlledDaemon
from bridge.ops.problems import Problem
from bridge.ops.sessions_api import find_running
from bridge.ports import Publication, PublishingPoint
from bridge.protocols.whip import FRAGMENT_TYPE, SDP_TYPE
from bridge.protocols.whip_ingest import Fragment, Refused, check_offer, read_fragment

# A publisher that has crashed is silent, and makes room, by then.
RETRY_AFTER_S = 2

_ENDPOINT = "/sessions/{name}/whip/{input}"
_SESSION = _ENDPOINT + "/{publication_id}"
_OFFER = {"requestBody": {"required": True, "content": {SDP_TYPE: {}}}}
_FRAGMENT = {"requestBody": {"required": True, "content": {FRAGMENT_TYPE: {}}}}


def whip_routes(daemon: ControlledDaemon, policy: UrlPolicy) -> APIRouter:
    """`policy` says which addresses of publishers ICE may try."""
    router = APIRouter(prefix="/v1", responses={"default": {"description": "A problem document (RFC 9457)"}})

    def may_reach(address: str) -> bool:
        try:
            policy.check_address(address)
        except UrlRefused:
            return False
        return True

    def point(name: str, input: str) -> PublishingPoint:
        source = find_running(daemon, name).source(input)
        if source is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no input {input}")
        if not isinstance(source, PublishingPoint):
            raise Problem(HTTPStatus.NOT_FOUND, f"input {input} takes no publishers: its URL is not whip:")
        return source

    def found(name: str, input: str, publication_id: str) -> tuple[PublishingPoint, Publication]:
        found_at = point(name, input)
        publication = found_at.publication(publication_id)
        if publication is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no such publication to input {input}, or no longer")
        return found_at, publication

    @router.options(_ENDPOINT, response_class=Response)
    async def describe_whip(name: str, input: str) -> Response:
        """What may be done here."""
        point(name, input)
        return Response(headers={"Accept-Post": SDP_TYPE, "Allow": "OPTIONS, POST"})

    @router.post(_ENDPOINT, status_code=HTTPStatus.CREATED, response_class=Response, openapi_extra=_OFFER)
    async def publish(name: str, input: str, request: Request) -> Response:
        """Send sound to an input: an SDP offer of one track, Opus or G.711; the body of the answer is an SDP answer.

        One publisher at a time: while one is heard a second gets 409. Video is declined.
        """
        found_at = point(name, input)
        _check_type(request, SDP_TYPE, "Accept-Post")
        if not _accepts(request.headers.get("accept", ""), SDP_TYPE):
            raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"the answer is {SDP_TYPE}, which Accept leaves out")
        offer = await _text(request)
        try:
            check_offer(offer)
            accepted = await found_at.publish(offer, may_reach)
        except Refused as refused:
            raise Problem(HTTPStatus(refused.status), str(refused)) from None
        except RemoteProtocolError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        except SourceTaken as error:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise Problem(HTTPStatus.CONFLICT, str(error), headers=headers) from None
        headers = {
            "Location": f"{request.url.path}/{accepted.id}",
            "ETag": accepted.etag,
            "Accept-Patch": FRAGMENT_TYPE,
        }
        return Response(accepted.answer, HTTPStatus.CREATED, headers, SDP_TYPE)

    @router.patch(_SESSION, status_code=HTTPStatus.NO_CONTENT, response_class=Response, openapi_extra=_FRAGMENT)
    async def trickle(name: str, input: str, publication_id: str, request: Request) -> None:
        """Add ICE candidates of the publisher. There is no ICE restart: publish anew."""
        found_at, publication = found(name, input, publication_id)
        _check_type(request, FRAGMENT_TYPE, "Accept-Patch")
        _check_match(request.headers.get("if-match"), publication.etag)
        fragment = _fragment(await _text(request))
        if fragment.users - publication.users:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "other ICE credentials: there are no ICE restarts here")
        await found_at.trickle(publication_id, fragment.candidates)

    @router.delete(_SESSION, status_code=HTTPStatus.OK, response_class=Response)
    async def unpublish(name: str, input: str, publication_id: str) -> None:
        """End a publication."""
        found_at, _ = found(name, input, publication_id)
        await found_at.unpublish(publication_id)

    return router


def _check_type(request: Request, wanted: str, header: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != wanted:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {wanted}", headers={header: wanted})


def _accepts(accept: str, media_type: str) -> bool:
    ranges = {each.partition(";")[0].strip().lower() for each in accept.split(",")} - {""}
    return not ranges or not ranges.isdisjoint((media_type, f"{media_type.partition('/')[0]}/*", "*/*"))


def _check_match(if_match: str | None, etag: str) -> None:
    """RFC 9110 §13.1.1. An ICE restart comes with `*`, which the RFC on WHIP also shows in quotes."""
    if if_match is None:
        raise Problem(HTTPStatus.PRECONDITION_REQUIRED, "If-Match must name the ETag of the publication")
    if {each.strip() for each in if_match.split(",")}.isdisjoint((etag, "*", '"*"')):
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "If-Match names another ICE session")


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is no UTF-8") from None


def _fragment(body: str) -> Fragment:
    try:
        return read_fragment(body)
    except Refused as refused:
        raise Problem(HTTPStatus(refused.status), str(refused)) from None
