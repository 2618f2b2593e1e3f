"""Routes of the API: what sessions do, and the operator's hand on them."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import WithJsonSchema

from bridge.config import Name
from bridge.ops.bodies import IMAGE_TYPES, MuteBody, SayBody, SlateBody, ToolBody
from bridge.ops.control import ControlledDaemon, ControlledSession, OutputView, SessionView
from bridge.ops.hostile import HostileOutputs, output_schema
from bridge.ops.problems import Problem

DONE = HTTPStatus.NO_CONTENT

_IMAGE = {"requestBody": {"required": True, "content": {media_type: {} for media_type in IMAGE_TYPES}}}
OutputBody = Annotated[dict[str, Any], WithJsonSchema(output_schema())]


def session_routes(daemon: ControlledDaemon, outputs: HostileOutputs) -> APIRouter:
    """What a session lacks is 404, what its avatar service cannot do 409, and 503 what it cannot do now."""
    router = APIRouter(prefix="/v1", responses={"default": {"description": "A problem document (RFC 9457)"}})

    def running(name: str) -> ControlledSession:
        return find_running(daemon, name)

    def running_with_output(name: str, output: str) -> ControlledSession:
        session = running(name)
        if _output(session, output) is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no output {output}")
        return session

    Running = Annotated[ControlledSession, Depends(running)]
    WithOutput = Annotated[ControlledSession, Depends(running_with_output)]

    @router.get("/sessions")
    async def list_sessions() -> list[SessionView]:
        """Every session, and how it is doing."""
        return [SessionView.model_validate(status) for status in daemon.status()]

    @router.get("/sessions/{name}")
    async def show_session(name: str) -> SessionView:
        """How a session is doing."""
        return _find(daemon, name)

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
    async def put_output(session: Running, output: Name, body: OutputBody, response: Response) -> OutputView | None:
        """Add an output, or put it in the place of the one of that name, in the shape of the configuration.

        Secrets stand there as they are, or are named from the configuration's `secrets`, as in
        `{"stream_key": {"secret": NAME}}`; they never come back. Keys that read files are refused.
        """
        config = await outputs.read(body)
        if _output(session, output) is not None:
            response.status_code = HTTPStatus.OK
        await session.add_output(output, config)
        return _output(session, output)

    @router.delete("/sessions/{name}/outputs/{output}", status_code=DONE)
    async def remove_output(session: WithOutput, output: str) -> None:
        """Close an output and forget it."""
        await session.remove_output(output)

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


def _find(daemon: ControlledDaemon, name: str) -> SessionView:
    for status in daemon.status():
        view = SessionView.model_validate(status)
        if view.name == name:
            return view
    raise Problem(HTTPStatus.NOT_FOUND, f"there is no session {name}")


def _output(session: ControlledSession, name: str) -> OutputView | None:
    outputs = SessionView.model_validate(session.status()).outputs
    return next((output for output in outputs if output.name == name), None)


def _check_service(name: str, session: ControlledSession, verb: str) -> None:
    """Before it is tried: a service that is away would only say that it is away."""
    if verb not in SessionView.model_validate(session.status()).capabilities:
        raise Problem(HTTPStatus.CONFLICT, f"the avatar service of session {name} has no {verb}")
