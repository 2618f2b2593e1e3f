"""Routes of the API: what sessions do, and the operator's hand on them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Request, Response
from pydantic import WithJsonSchema

from bridge.config import Name, OutputConfig
from bridge.config_origin import Definition
from bridge.ops.bodies import IMAGE_TYPES, HistoryBody, ListeningBody, MuteBody, SayBody, SlateBody, ToolBody
from bridge.ops.control import (
    ControlledDaemon,
    ControlledSession,
    OutputView,
    ReloadView,
    SessionDetail,
    SessionView,
    TrendView,
)
from bridge.ops.event_stream import EventStream
from bridge.ops.hostile import hostile_schema
from bridge.ops.hostile_sessions import MAX_PARTS, HostileSessions, session_schema, shown
from bridge.ops.problems import Problem

DONE = HTTPStatus.NO_CONTENT
# Of one session: each holds a connection, and is woken by every event.
MAX_FOLLOWERS = 32

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_IMAGE = {"requestBody": {"required": True, "content": dict.fromkeys(IMAGE_TYPES, _PICTURE)}}
OutputBody = Annotated[dict[str, Any], WithJsonSchema(hostile_schema(OutputConfig))]
SessionBody = Annotated[dict[str, Any], WithJsonSchema(session_schema())]
PatchBody = Annotated[dict[str, Any], Body(media_type="application/merge-patch+json")]


def session_routes(daemon: ControlledDaemon, hostile: HostileSessions) -> APIRouter:
    """What a session lacks is 404, what its avatar service cannot do 409, and 503 what it cannot do now."""
    router = APIRouter(prefix="/v1", responses={"default": {"description": "A problem document (RFC 9457)"}})

    # Coroutines, for functions would be called in a thread.
    async def running(name: str) -> ControlledSession:
        return find_running(daemon, name)

    async def running_with_output(name: str, output: str) -> ControlledSession:
        session = find_running(daemon, name)
        if _output(session, output) is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no output {output}")
        return session

    async def followed(name: str) -> ControlledSession:
        session = find_running(daemon, name)
        if session.events.n_followers >= MAX_FOLLOWERS:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"session {name} is followed {MAX_FOLLOWERS} times already")
        return session

    Running = Annotated[ControlledSession, Depends(running)]
    Followed = Annotated[ControlledSession, Depends(followed)]
    WithOutput = Annotated[ControlledSession, Depends(running_with_output)]

    @router.get("/sessions")
    async def list_sessions() -> list[SessionView]:
        """Every session, and how it is doing."""
        return [_view(daemon, status) for status in daemon.status()]

    @router.get("/sessions/{name}")
    async def show_session(name: str) -> SessionDetail:
        """How a session is doing, and what it is made of."""
        return _detail(daemon, name)

    @router.put("/sessions/{name}", status_code=HTTPStatus.CREATED)
    async def put_session(name: Name, body: SessionBody, response: Response) -> SessionDetail:
        """Begin a session, or begin the one of that name anew, in the shape of the configuration.

        Where only outputs differ, those alone change. Secrets are written as in outputs, and never come back; keys that
        read files, and inputs of this machine, are refused. The configuration file stays as it is.
        """
        definition = await hostile.read(body)

        async def put(now: Definition | None) -> Definition:
            if now is not None:
                response.status_code = HTTPStatus.OK
            elif not daemon.has_room:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "there are as many sessions as max_sessions allows")
            return definition

        await _change(daemon, name, put)
        return _detail(daemon, name)

    @router.patch("/sessions/{name}")
    async def patch_session(name: Name, body: PatchBody) -> SessionDetail:
        """Change parts of a session (JSON Merge Patch, RFC 7396); secrets that are not given stay.

        Where only outputs differ, those alone change; else the session begins anew.
        """
        await _change(daemon, name, lambda now: hostile.read(body, _there(name, now)))
        return _detail(daemon, name)

    @router.delete("/sessions/{name}", status_code=DONE)
    async def remove_session(name: Name) -> None:
        """Finish the utterance under way, close outputs and avatar, and forget the session."""

        async def remove(now: Definition | None) -> None:
            _there(name, now)

        await _change(daemon, name, remove)

    @router.get("/sessions/{name}/events", status_code=HTTPStatus.OK, response_class=EventStream)
    async def events(session: Followed, last_event_id: Annotated[str | None, Header()] = None) -> EventStream:
        """What happens from now on, or from after `Last-Event-ID`: state, on_air, outputs, speech, transcripts, tools.

        `data` is a JSON object, with the time in `at`. An event `lost` tells how many are not remembered any more.
        """
        return EventStream(session.events, last_event_id)

    @router.get("/sessions/{name}/trend")
    async def trend(session: Running) -> TrendView:
        """How a session was doing in the last ten minutes, as the page plots it."""
        return TrendView.model_validate(session.trend.columns())

    @router.post("/reload")
    async def reload() -> ReloadView:
        """Read the configuration file anew and apply what differs; what does not is not touched."""
        return ReloadView.model_validate(await daemon.reload())

    @router.post("/drain", status_code=HTTPStatus.ACCEPTED)
    async def drain() -> Response:
        """Finish the utterances under way, close outputs and avatars, and end the daemon. Again: nothing more."""
        if not daemon.is_draining:
            daemon.stop()
        return Response(status_code=HTTPStatus.ACCEPTED)

    # ------------------------------------------------------------------------------------------ the avatar

    @router.post("/sessions/{name}/say", status_code=DONE)
    async def say(name: str, session: Running, body: SayBody) -> None:
        """Give the avatar text to answer or to speak."""
        _check_service(name, session, "say")
        await session.say(body.text)

    @router.post("/sessions/{name}/interrupt", status_code=DONE)
    async def interrupt(name: str, session: Running) -> None:
        """Make the avatar stop speaking, and forget what it was to say."""
        _check_service(name, session, "interrupt")
        await session.interrupt()

    @router.post("/sessions/{name}/image", status_code=DONE, openapi_extra=_IMAGE)
    async def image(name: str, session: Running, request: Request, reply: bool = False) -> None:
        """Show the avatar a picture, up to 8 MiB; with `reply` it speaks about it."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in IMAGE_TYPES:
            wanted = " or ".join(IMAGE_TYPES)
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {wanted}")
        _check_service(name, session, "image")
        picture = await request.body()
        if not picture.startswith(IMAGE_TYPES[media_type]):
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body is no {media_type}")
        await session.show_image(picture, media_type, wants_answer=reply)

    @router.post("/sessions/{name}/history", status_code=DONE)
    async def history(name: str, session: Running, body: HistoryBody) -> None:
        """Tell the avatar what a user said before; it does not answer. Later sessions of its service are told too."""
        _check_service(name, session, "history")
        await session.remember(body.text)

    @router.post("/sessions/{name}/listening", status_code=DONE)
    async def listening(name: str, session: Running, body: ListeningBody) -> None:
        """Make the avatar look as if it listened to somebody whom it does not hear, or end that."""
        _check_service(name, session, "listening")
        await session.listen(body.on)

    @router.post("/sessions/{name}/tools/{call_id}", status_code=DONE)
    async def answer_tool(session: Running, call_id: str, body: ToolBody) -> None:
        """Answer a function call of the avatar's model."""
        if not session.answer_tool(call_id, body.output):
            raise Problem(HTTPStatus.NOT_FOUND, "no such call waits for an answer, or no longer")

    # ------------------------------------------------------------------------------------------ what viewers get

    @router.post("/sessions/{name}/slate", status_code=DONE)
    async def slate(session: Running, body: SlateBody) -> None:
        """Put the slate on air at once, or take it off at the next live keyframe."""
        session.show_slate(body.on, body.reason)

    @router.post("/sessions/{name}/mute", status_code=DONE)
    async def mute(session: Running, body: MuteBody) -> None:
        """Silence what viewers hear."""
        session.mute(body.on)

    # ------------------------------------------------------------------------------------------ outputs

    @router.put("/sessions/{name}/outputs/{output}", status_code=HTTPStatus.CREATED)
    async def put_output(
        name: str, session: Running, output: Name, body: OutputBody, response: Response
    ) -> OutputView | None:
        """Add an output, or put it in the place of the one of that name, in the shape of the configuration.

        Secrets stand there as they are, or are named from the configuration's `secrets`, as in
        `{"stream_key": {"secret": NAME}}`; they never come back. Keys that read files are refused.
        """
        config = await hostile.outputs.read(body)
        if _output(session, output) is not None:
            response.status_code = HTTPStatus.OK

        async def put(now: Definition | None) -> Definition:
            there = _there(name, now)
            if output not in there.config.outputs and len(there.config.outputs) >= MAX_PARTS:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"session {name} has as many as {MAX_PARTS} outputs")
            return _with_outputs(there, {output: config})

        await _change(daemon, name, put)
        return _output(session, output)

    @router.delete("/sessions/{name}/outputs/{output}", status_code=DONE)
    async def remove_output(name: str, session: WithOutput, output: str) -> None:
        """Close an output and forget it."""

        async def remove(now: Definition | None) -> Definition:
            return _with_outputs(_there(name, now), {output: None})

        await _change(daemon, name, remove)

    @router.post("/sessions/{name}/outputs/{output}/start", status_code=DONE)
    async def start_output(session: WithOutput, output: str) -> None:
        """Publish; an output that does already goes on."""
        await session.start_output(output)

    @router.post("/sessions/{name}/outputs/{output}/stop", status_code=DONE)
    async def stop_output(session: WithOutput, output: str) -> None:
        """Close an output until it is started again."""
        await session.stop_output(output)

    @router.post("/sessions/{name}/outputs/{output}/restart", status_code=DONE)
    async def restart_output(session: WithOutput, output: str) -> None:
        """Close an output and publish anew."""
        await session.restart_output(output)

    return router


def find_running(daemon: ControlledDaemon, name: str) -> ControlledSession:
    """Raises Problem."""
    session = daemon.session(name)
    if session is None:
        view = _find(daemon, name)
        raise Problem(HTTPStatus.CONFLICT, f"session {name} does not run: {view.error or view.state}")
    return session


def _view(daemon: ControlledDaemon, status: object) -> SessionView:
    view = SessionView.model_validate(status)
    return view.model_copy(update={"overridden": daemon.is_overridden(view.name)})


def _find(daemon: ControlledDaemon, name: str) -> SessionView:
    status = daemon.status_of(name)
    if status is None:
        raise _missing(name)
    return _view(daemon, status)


def _detail(daemon: ControlledDaemon, name: str) -> SessionDetail:
    definition = _there(name, daemon.definition(name))
    return SessionDetail(**dict(_find(daemon, name)), config=shown(definition.config))


def _there(name: str, definition: Definition | None) -> Definition:
    if definition is None:
        raise _missing(name)
    return definition


def _missing(name: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"there is no session {name}")


async def _change(
    daemon: ControlledDaemon, name: str, change: Callable[[Definition | None], Awaitable[Definition | None]]
) -> None:
    """One after the other; those that have waited until the daemon drains come too late."""

    def unless_draining(now: Definition | None) -> Awaitable[Definition | None]:
        if daemon.is_draining:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the daemon is draining")
        return change(now)

    await daemon.change_session(name, unless_draining)


def _with_outputs(now: Definition, changed: Mapping[str, OutputConfig | None]) -> Definition:
    """With these outputs that calls have written, or without those of None."""
    kept = {name: output for name, output in now.config.outputs.items() if name not in changed}
    put = {name: output for name, output in changed.items() if output is not None}
    strange = replace(now.strange, outputs=now.strange.outputs - changed.keys() | put.keys())
    return Definition(now.config.model_copy(update={"outputs": kept | put}), strange)


def _output(session: ControlledSession, name: str) -> OutputView | None:
    outputs = SessionView.model_validate(session.status()).outputs
    return next((output for output in outputs if output.name == name), None)


def _check_service(name: str, session: ControlledSession, verb: str) -> None:
    """Before it is tried: a service that is away would only say that it is away."""
    if verb not in SessionView.model_validate(session.status()).capabilities:
        raise Problem(HTTPStatus.CONFLICT, f"the avatar service of session {name} has no {verb}")
