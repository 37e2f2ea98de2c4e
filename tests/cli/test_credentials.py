"""Credentials: which organisation has which, and that none of them is ever shown."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from service.cli.credentials import credentials, tenants, token_source
from service.core.errors import SettingsError, WebexUnauthorized
from service.settings import Settings, load
from service.webex.client import Wiring
from tests.servers import running

FIRST = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
FIRST_LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
ACME = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
GLOBEX = "00000000-0000-4000-8000-000000000000"


class Webex:
    """Mints, refreshes, lists meetings; keeps who asked. Who has ``refused`` in the token is."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        routes = [Route("/v1/{path:path}", self._answer, methods=["GET", "POST"])]
        self.app = Starlette(routes=routes)

    async def _answer(self, request: Request) -> Response:
        who = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.asked.append((request.path_params["path"], who))
        self.bodies.append(await request.body())
        if "refused" in who:
            return JSONResponse({"message": "canary"}, 403)
        if request.path_params["path"] == "meetings":
            return JSONResponse({"items": []})
        return JSONResponse({"access_token": f"granted-canary-{len(self.asked)}", "refresh_token": "next-canary"})


@pytest.fixture
async def webex() -> Webex:
    return Webex()


@pytest.fixture
async def base(webex: Webex) -> AsyncIterator[str]:
    async with running(webex.app) as address:
        yield f"{address}/v1"


Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path, base: str) -> Make:
    """Settings; what ends in ``_FILE`` is the file's content."""

    def made(**variables: str) -> Settings:
        environ = {"WEBEX__BASE_URL": base, "JOURNAL__PATH": str(tmp_path / "data")}
        for name, value in variables.items():
            if name.endswith("_FILE"):
                (tmp_path / name).write_text(f"{value}\n")
                value = str(tmp_path / name)
            environ[name] = value
        return load({f"WEBEX_EVENTS_{name}": value for name, value in environ.items()})

    return made


def several() -> dict[str, str]:
    """One with a token, one with a file, and one that trusts the Service App, which an integration may ask for."""
    return {
        "WEBEX__TOKEN": "first-canary",
        "WEBEX__ORGANIZATION_ID": FIRST_LONG,
        "WEBEX__ORGANIZATIONS__ACME__ID": ACME,
        "WEBEX__ORGANIZATIONS__ACME__TOKEN_FILE": "acme-canary",
        "WEBEX__ORGANIZATIONS__GLOBEX__ID": GLOBEX,
        "WEBEX__SERVICE_APP__APPLICATION_ID": "app-1",
        "WEBEX__SERVICE_APP__CLIENT_ID": "app-client",
        "WEBEX__SERVICE_APP__CLIENT_SECRET_FILE": "app-secret-canary",
        "WEBEX__SERVICE_APP__CALLER__CLIENT_ID": "caller-client",
        "WEBEX__SERVICE_APP__CALLER__CLIENT_SECRET_FILE": "caller-secret-canary",
        "WEBEX__SERVICE_APP__CALLER__REFRESH_TOKEN_FILE": "caller-refresh-canary",
    }


async def test_each_organisation_calls_with_its_own_token(webex: Webex, make: Make, tmp_path: Path) -> None:
    """A client, and so a rate budget, for each; what was granted is kept, one file for each, readable by nobody else."""
    settings = make(**several())
    with capture_logs() as logs:
        async with tenants(settings, credentials(settings), Wiring()) as opened:
            assert list(opened) == ["default", ACME, GLOBEX]
            for tenant in opened.values():
                await tenant.probe()
            assert len({id(tenant.client.budget) for tenant in opened.values()}) == 3
            assert "canary" not in repr([opened, [vars(tenant) for tenant in opened.values()]])
    assert webex.asked == [
        ("meetings", "first-canary"),
        ("meetings", "acme-canary"),
        ("access_token", ""),
        ("applications/app-1/token", "granted-canary-3"),
        ("meetings", "granted-canary-4"),
    ]
    kept = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "data").iterdir()}
    assert kept == {"webex-grant-caller.json": 0o600, f"webex-grant-app-{GLOBEX}.json": 0o600}
    assert "canary" not in repr([logs, settings, credentials(settings)])


async def test_a_refusal_shows_nothing(make: Make) -> None:
    """Neither the token, nor what Webex wrote."""
    settings = make(WEBEX__TOKEN="refused-canary")
    with capture_logs() as logs:
        async with tenants(settings, credentials(settings), Wiring()) as opened:
            with pytest.raises(WebexUnauthorized) as refused:
                await opened["default"].probe()
    assert "canary" not in repr([logs, refused.value]) + str(refused.value)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        pytest.param("acme", "acme-canary", id="its name"),
        pytest.param(ACME, "acme-canary", id="its id"),
        pytest.param(FIRST, "first-canary", id="the id of the first, in the other form"),
        pytest.param("default", "first-canary", id="the first"),
    ],
)
async def test_an_organisation_is_named_by_its_name_or_id(make: Make, name: str, token: str) -> None:
    """As the operator knows it."""
    assert await token_source(make(**several()), organization=name).get() == token


@pytest.mark.parametrize(("name", "said"), [("", "name one of acme, default, globex"), ("x", "no such organisation")])
def test_which_organisation_must_be_clear(make: Make, name: str, said: str) -> None:
    """Nobody's meetings are changed by mistake."""
    with pytest.raises(SettingsError, match=said):
        token_source(make(**several()), organization=name)


async def test_the_only_one_needs_no_name(make: Make) -> None:
    """With one credential there is no choice."""
    assert await token_source(make(WEBEX__TOKEN="one")).get() == "one"
    alone = {"WEBEX__ORGANIZATIONS__ACME__ID": ACME, "WEBEX__ORGANIZATIONS__ACME__TOKEN": "two"}
    assert await token_source(make(**alone)).get() == "two"


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"WEBEX__TOKEN": "a b-canary"}, id="no token"),
        pytest.param(
            {
                "WEBEX__CLIENT_ID": "a",
                "WEBEX__CLIENT_SECRET_FILE": "",
                "WEBEX__REFRESH_TOKEN_FILE": "canary",
            },
            id="an empty secret",
        ),
    ],
)
def test_a_bad_secret_is_refused_at_the_start(make: Make, variables: dict[str, str]) -> None:
    """While somebody is there to see it; it is not shown."""
    with pytest.raises(SettingsError) as refused:
        credentials(make(**variables))
    assert "canary" not in str(refused.value)
