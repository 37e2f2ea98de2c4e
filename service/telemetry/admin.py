"""The private listener: is the process alive, can it accept, what does it count."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.telemetry.metrics import Metrics

_Endpoint = Callable[[Request], Awaitable[Response]]

#: The application behind the private listener.
PrivateApp = Starlette

#: Asked at every probe: None where all is well, else a sentence that says what is not, and what to do.
Check = Callable[[], str | None]


def create_app(*, stuck: Check, unready: Check, metrics: Metrics, more: Sequence[Route] = ()) -> Starlette:
    """The application behind the private listener: ``/livez``, ``/readyz``, ``/metrics``, and ``more``.

    ``stuck`` complains only where a restart would help; ``unready`` is about being able to accept, not about Kafka.
    """
    app = Starlette(
        routes=[
            Route("/livez", _probe(stuck)),
            Route("/readyz", _probe(unready)),
            Route("/metrics", _metrics(metrics)),
            *more,
        ],
        exception_handlers={HTTPException: _no_such_route},
    )
    app.router.redirect_slashes = False
    return app


def add_routes(app: PrivateApp, routes: Sequence[Route]) -> None:
    """What can be asked for only once the bus is there."""
    app.router.routes.extend(routes)


def _probe(check: Check) -> _Endpoint:
    async def answer(_: Request) -> Response:
        complaint = check()
        if complaint is None:
            return PlainTextResponse("ok\n")
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, detail=complaint)

    return answer


def _metrics(metrics: Metrics) -> _Endpoint:
    async def answer(_: Request) -> Response:
        content, media_type = metrics.render()
        return Response(content, headers={"Content-Type": media_type})

    return answer


async def _no_such_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette looks handlers up by class
    response = _problem(HTTPStatus(error.status_code))
    response.headers.update(error.headers or {})
    return response


def _problem(status: HTTPStatus, *, detail: str | None = None) -> Response:
    """RFC 9457."""
    document = {"type": "about:blank", "title": status.phrase, "status": status.value}
    if detail is not None:
        document["detail"] = detail
    return Response(json.dumps(document), status_code=status.value, media_type="application/problem+json")
