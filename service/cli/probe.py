"""``webex-events health``: asks the private listener of the role that runs beside us, for a container's HEALTHCHECK.

That is run every few seconds in every container, so nothing is loaded here but the settings: no event loop, no httpx.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Annotated

import typer

from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.given import settings_of

#: Seconds for all of it, from the host's name to the end of the answer: what takes longer is no use to anybody.
ANSWER = 3.0

#: Bytes of an answer that are read; a complaint is a sentence.
_MOST = 64 * 1024

#: A listener on every address is asked on this machine itself.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared

_Live = Annotated[
    bool, typer.Option("--live/--ready", help="Whether it makes progress, or whether it would store an event now.")
]

health_app = typer.Typer(cls=Group)


@health_app.command(
    "health", cls=Command, epilog="webex-events health\nWEBEX_EVENTS_ADMIN__PORT=9091 webex-events health --live"
)
def health(live: _Live = False) -> None:
    """Ask the role that has these settings how it is: 0 where it is well, else 1 and what is wrong."""
    admin = settings_of().admin
    if not admin.port:
        end("With WEBEX_EVENTS_ADMIN__PORT=0 nobody knows where the role listens; give it a port.", WRONG)
    host, path = _LOOPBACK.get(admin.host, admin.host), "/livez" if live else "/readyz"
    try:
        status, body = _asked_in_time(host, admin.port, path)
    except (OSError, HTTPException, UnicodeError) as error:
        where = f"http://{f'[{host}]' if ':' in host else host}:{admin.port}{path}"
        end(f"Nobody answered at {where} ({type(error).__name__}). Does a role run with these settings?", FAILED)
    if status != HTTPStatus.OK:
        end(_complaint(body) or f"It answered {status}.", FAILED)
    typer.echo("live" if live else "ready")


#: ``health`` under the program's name, as it stands in the whole program.
only_health = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
only_health.add_typer(health_app)


@only_health.callback()
def _program() -> None:
    """A program of one command, which is named all the same."""


def _asked_in_time(host: str, port: int, path: str) -> tuple[int, bytes]:
    """As :func:`_asked`, and TimeoutError. In a thread that is left behind: nothing else bounds the look-up of a name, and a
    socket's own limit begins anew with every byte.
    """
    answers = SimpleQueue[tuple[int, bytes] | Exception]()

    def ask() -> None:
        try:
            answers.put(_asked(host, port, path))
        except Exception as error:  # noqa: BLE001 - raised by who waits
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER)
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _asked(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body. Raises OSError, HTTPException; UnicodeError for what can be no host's name."""
    connection = HTTPConnection(host, port, timeout=ANSWER)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    finally:
        connection.close()


def _complaint(body: bytes) -> str:
    """The sentence of a problem document; "" where it is none."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
