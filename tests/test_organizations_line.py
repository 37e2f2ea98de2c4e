"""A Service App that two organisations trust, on the simulated Webex over a real socket: settings in, calls out."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from service.cli.buses import opened_bus
from service.cli.credentials import credentials, tenants
from service.cli.policy_file import LivePolicy
from service.cli.processing import processing
from service.cli.shutdown import Stop
from service.core.errors import WebexError, WebexUnauthorized
from service.core.event import rfc3339
from service.core.organizations import ONLY_ORGANIZATION, wire_id
from service.sandbox.app import create_app
from service.sandbox.world import World
from service.settings import Settings, load
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.webex.client import Wiring
from service.webex.meetings import create_meeting, list_meetings
from service.webex.objects import CreateMeetingObject
from service.webex.tenant import Tenant
from tests.servers import running

ACME = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
APP_SECRET, CALLER_SECRET = "app-secret-canary-31f7", "caller-secret-canary-c0d4"
BOTH = (ONLY_ORGANIZATION, ACME)
MINTED, REFRESHED = "createServiceAppAccessToken", "accessToken"


@dataclass
class Place:
    """The simulated Webex and the settings for it; remembers every secret that there ever was."""

    world: World
    control: httpx.AsyncClient
    settings: Settings
    folder: Path
    secrets: set[str]
    shown: list[str] = field(default_factory=list)

    def granted(self, key: str) -> dict[str, str]:
        """What the file of an organisation's grant has."""
        name = f"webex-grant-{key if key == 'caller' else f'app-{key}'}.json"
        grant: dict[str, str] = msgspec.json.decode((self.folder / name).read_bytes())
        self.secrets |= {grant["access_token"], grant["refresh_token"]}
        return grant

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """A control route of the sandbox."""
        answer = await self.control.request(method, f"/sandbox/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def decide(self, key: str, event: str) -> None:
        """An administrator of the organisation authorises the app, or withdraws that."""
        await self.ask("POST", f"organizations/{self.id_of(key)}/{event}")

    def id_of(self, key: str) -> str:
        """The organisation's id as Webex writes it."""
        return self.world.identity.organization if key == ONLY_ORGANIZATION else wire_id(key)

    async def calls(self) -> list[tuple[str, int]]:
        """The operations that were called, and how each was answered."""
        return [(call["operationId"], call["status"]) for call in (await self.ask("GET", "ledger"))["calls"]]

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Mapping[str, Tenant]]:
        """The program's clients. What they, and what they are made of, look like is kept."""
        found = credentials(self.settings)
        async with tenants(self.settings, found, Wiring()) as each:
            yield each
            for tenant in each.values():
                self.shown += map(repr, [tenant, vars(tenant), vars(tenant.client), self.settings, found])
        for key in ("caller", *BOTH):
            self.granted(key)

    async def refused(self, tenant: Tenant) -> WebexUnauthorized:
        """The probe fails. What that looks like is kept."""
        with pytest.raises(WebexUnauthorized) as refused:
            await tenant.probe()
        self.keep(refused.value)
        return refused.value

    def keep(self, error: WebexError) -> None:
        """An error as it is logged and printed."""
        self.shown += [repr(error), str(error), repr(vars(error)), *traceback.format_exception(error)]


def settings_of(world: World, base: str, folder: Path, refresh_token: str) -> Settings:
    """Both organisations by the Service App alone; the integration that may ask for its tokens is refreshed."""
    files = {"app": APP_SECRET, "caller": CALLER_SECRET, "refresh": refresh_token}
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    app = "WEBEX_EVENTS_WEBEX__SERVICE_APP__"
    return load(
        {
            "WEBEX_EVENTS_WEBEX__BASE_URL": f"{base}/v1",
            "WEBEX_EVENTS_JOURNAL__PATH": str(folder / "data"),
            "WEBEX_EVENTS_WEBEX__ORGANIZATION_ID": world.identity.organization,
            "WEBEX_EVENTS_WEBEX__ORGANIZATIONS__ACME__ID": ACME,
            f"{app}APPLICATION_ID": world.identity.public_id("APPLICATION"),
            f"{app}CLIENT_ID": "app-client",
            f"{app}CLIENT_SECRET_FILE": str(folder / "app"),
            f"{app}CALLER__CLIENT_ID": "caller-client",
            f"{app}CALLER__CLIENT_SECRET_FILE": str(folder / "caller"),
            f"{app}CALLER__REFRESH_TOKEN_FILE": str(folder / "refresh"),
        }
    )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """At the end nothing that was logged or shown may hold a secret."""
    logs: list[MutableMapping[str, Any]]
    with (
        capture_logs() as logs,
        contextlib.closing(World.open(None, now=lambda: datetime.now(UTC), seed="two")) as world,
    ):
        async with running(create_app(world, token="of-nobody")) as base, httpx.AsyncClient(base_url=base) as control:
            issued = await control.post(
                "/sandbox/tokens",
                json={
                    "scopes": ["spark:applications_token"],
                    "clientId": "caller-client",
                    "clientSecret": CALLER_SECRET,
                },
            )
            secrets = {APP_SECRET, CALLER_SECRET, issued.json()["refresh_token"], issued.json()["access_token"]}
            settings = settings_of(world, base, tmp_path, issued.json()["refresh_token"])
            found = Place(world, control, settings, tmp_path / "data", secrets)
            yield found
    assert {"webex.called", "token.refreshed"} <= {each["event"] for each in logs}
    seen = "\n".join([*found.shown, *map(repr, logs)])
    assert len(found.secrets) >= 9
    assert [secret for secret in found.secrets if secret in seen] == []


async def titles_of_its_own(tenant: Tenant, key: str) -> list[str]:
    """Schedule a meeting as the organisation's app, and list what there is then."""
    start = datetime.now(UTC) + timedelta(days=1)
    body: CreateMeetingObject = {
        "title": f"of {key}",
        "start": rfc3339(start),
        "end": rfc3339(start + timedelta(hours=1)),
    }
    await create_meeting(tenant.client, body, send_email=False)
    return [meeting["title"] async for meeting in list_meetings(tenant.client, {})]


async def test_each_organisation_has_its_own_token_and_meetings(place: Place) -> None:
    """A token is minted for each at its first call, kept, and used: neither sees the other's meetings."""
    async with place.opened() as opened:
        for key in BOTH:
            assert await titles_of_its_own(opened[key], key) == [f"of {key}"]
    calls = await place.calls()

    assert [operation for operation, _ in calls].count(MINTED) == 2
    assert {status for _, status in calls} == {200}
    assert place.granted(ONLY_ORGANIZATION)["access_token"] != place.granted(ACME)["access_token"]


async def test_a_restart_asks_for_no_token(place: Place) -> None:
    """What was granted is still good; Webex limits how many live tokens there are."""
    for _ in range(2):
        async with place.opened() as opened:
            for key in BOTH:
                await opened[key].probe()

    assert [operation for operation, _ in await place.calls()].count(MINTED) == 2


@pytest.mark.parametrize(
    ("ended", "got_by"),
    [
        pytest.param(["access_token"], [REFRESHED], id="the access token: it is refreshed"),
        pytest.param(["access_token", "refresh_token"], [REFRESHED, MINTED], id="both: another pair is minted"),
    ],
)
async def test_a_token_that_ended_is_replaced_unnoticed(place: Place, ended: list[str], got_by: list[str]) -> None:
    """After a 401 the call is made again with a token of the way that still works; the other organisation keeps its own."""
    async with place.opened() as opened:
        for key in BOTH:
            await opened[key].probe()
        before, other = place.granted(ACME), place.granted(ONLY_ORGANIZATION)
        for name in ended:
            await place.ask("DELETE", "tokens", token=before[name])
        made = len(await place.calls())
        for key in BOTH:
            await opened[key].probe()

    calls = [operation for operation, _ in (await place.calls())[made:]]
    assert calls == ["listMeetings", "listMeetings", *got_by, "listMeetings"]
    assert place.granted(ACME)["access_token"] != before["access_token"]
    assert place.granted(ONLY_ORGANIZATION) == other


async def test_tokens_that_expired_are_replaced(place: Place) -> None:
    """Webex's clock decides: after a fortnight both organisations' tokens have ended, and each is refreshed."""
    async with place.opened() as opened:
        for key in BOTH:
            await opened[key].probe()
        before = len(await place.calls())
        await place.ask("POST", "clock", advanceSeconds=15 * 86_400)
        for key in BOTH:
            await opened[key].probe()

    assert (await place.calls())[before:] == [("listMeetings", 401), (REFRESHED, 200), ("listMeetings", 200)] * 2


async def test_a_withdrawn_consent_refuses_one_organisation_until_it_is_given_again(place: Place) -> None:
    """The probe raises WebexUnauthorized while no token can be had; the other organisation works on; renewed, it works."""
    async with place.opened() as opened:
        for key in BOTH:
            await opened[key].probe()
        place.granted(ACME)
        await place.decide(ACME, "deauthorize")

        assert (await place.refused(opened[ACME])).status in (401, 403)
        with pytest.raises(WebexUnauthorized) as refused:
            await opened[ACME].renew()
        place.keep(refused.value)
        await opened[ONLY_ORGANIZATION].probe()

        await place.decide(ACME, "authorize")
        await opened[ACME].renew()
        await opened[ACME].probe()


async def test_each_organisations_budget_is_measured(place: Place) -> None:
    """The processor's metrics have what each credential may do, by the organisation's key."""
    metrics, stop = Metrics(), Stop()
    async with place.opened() as opened:
        for key in BOTH:
            await opened[key].probe()
    async with opened_bus(place.settings, stop=stop, spool=False) as bus:
        found = credentials(place.settings)
        async with processing(place.settings, bus, metrics, LivePolicy(None), found, Progress(), stop=stop):
            shown = metrics.render()[0].decode()
            stop.set()

    for key in BOTH:
        assert f'webex_events_webex_allowed_rate{{organization="{key}"}} 50.0' in shown
        assert f'webex_events_webex_throttled_seconds{{organization="{key}"}} 0.0' in shown
        assert f'webex_events_webex_circuit_open{{organization="{key}"}} 0.0' in shown
