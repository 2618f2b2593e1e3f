"""How the local services refuse a request to their REST interfaces."""

from typing import TYPE_CHECKING

from bridge.local_avatar.faults import Faults

if TYPE_CHECKING:
    from starlette.responses import Response

TEXTS = {401: "Invalid license key", 402: "Insufficient balance", 429: "Too many requests", 503: "Busy"}


def page_of(faults: Faults) -> "Response | None":
    """A page of HTML, as what stands before a service would send, where the fault asks for it."""
    if not (choice := faults.choice("rest-status")):
        return None
    from starlette.responses import HTMLResponse

    faults.strikes("rest-status")
    status = int(choice)
    return HTMLResponse(f"<html><body><h1>{TEXTS[status]}</h1></body></html>", status)


def refused(status: int, message: str, code: int | None = None) -> "Response":
    """A refusal in JSON, with a number of the service's own."""
    from starlette.responses import JSONResponse

    return JSONResponse({"code": status if code is None else code, "message": message}, status)
