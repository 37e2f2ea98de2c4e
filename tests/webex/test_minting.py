"""Tokens of a Service App: minted, refreshed, and minted again where the consent was given again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from service.core.errors import WebexThrottled, WebexUnauthorized
from service.webex.client import WebexClient, Wiring
from service.webex.minting import Mint, MintedToken, ServiceApp
from service.webex.rate import Budget
from service.webex.tenant import Tenant
from service.webex.tokens import OAuth, StaticToken

BASE = "https://webex.example/v1"
START = datetime(2026, 3, 1, tzinfo=UTC)
BARE = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"


class Webex:
    """Mints, refreshes and counts; ``mint`` and ``refresh`` say what the next ones are answered instead."""

    def __init__(self, *, lifetime: float = 14 * 86_400) -> None:
        self.minted: list[dict[str, Any]] = []
        self.refreshed: list[str] = []
        self.callers: list[str] = []
        self.mint: list[httpx.Response] = []
        self.refresh: list[httpx.Response] = []
        self.living: set[str] = set()
        self.now, self.secret, self.lifetime = START, "app-secret-canary", lifetime

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.001)
        if request.url.path.endswith("/access_token"):
            self.refreshed.append(parse_qs(request.content.decode())["refresh_token"][0])
            return self.refresh.pop(0) if self.refresh else self._pair("refreshed", len(self.refreshed))
        if request.url.path.endswith("/applications/app-1/token"):
            self.callers.append(request.headers["authorization"])
            self.minted.append(msgspec.json.decode(request.content))
            return self.mint.pop(0) if self.mint else self._pair("minted", len(self.minted))
        accepted = request.headers["authorization"].removeprefix("Bearer ") in self.living
        return httpx.Response(200, json={"items": []}) if accepted else httpx.Response(401)

    def _pair(self, how: str, n: int) -> httpx.Response:
        self.living = {f"{how}-canary-{n}"}
        pair = {
            "access_token": f"{how}-canary-{n}",
            "expires_in": self.lifetime,
            "refresh_token": f"{how}-refresh-canary-{n}",
            "refresh_token_expires_in": 7_776_000,
        }
        return httpx.Response(200, json=pair)

    def client(self, token: Any, **more: Any) -> WebexClient:
        wiring = Wiring(transport=lambda _: httpx.MockTransport(self))
        return WebexClient(BASE, token, wiring=wiring, **more)

    def source(self, mint: Mint, persist: Path, *, organization: str = BARE) -> MintedToken:
        oauth = OAuth(
            client_id="client-1",
            client_secret=lambda: self.secret,
            token_url=f"{BASE}/access_token",
            now=lambda: self.now,
            transport=lambda: httpx.MockTransport(self),
        )
        clock: Callable[[], float] = lambda: (self.now - START).total_seconds()  # noqa: E731 - a value
        return MintedToken(
            mint, oauth, organization=organization, persist=persist, now=lambda: self.now, monotonic=clock
        )

    def app(self) -> Mint:
        caller, budget = StaticToken("caller-canary"), Budget()
        app = ServiceApp(application_id="app-1", client_id="client-1", client_secret=lambda: self.secret)
        return Mint(app, caller=caller, client=lambda: self.client(caller, budget=budget))


@pytest.fixture
def webex() -> Webex:
    return Webex()


async def test_a_token_is_minted_once_and_kept(webex: Webex, tmp_path: Path) -> None:
    """The caller asks for the organisation by Webex's form of its id; a restart asks for nothing."""
    persist = tmp_path / "grant.json"
    source = webex.source(webex.app(), persist)
    assert await asyncio.gather(*(source.get() for _ in range(20))) == ["minted-canary-1"] * 20
    assert await webex.source(webex.app(), persist).get() == "minted-canary-1"
    assert webex.minted == [{"clientId": "client-1", "clientSecret": "app-secret-canary", "targetOrgId": LONG}]
    assert webex.callers == ["Bearer caller-canary"]


async def test_it_is_refreshed_before_its_end(webex: Webex, tmp_path: Path) -> None:
    """With the app's own id and secret, by what the mint gave; only a refusal leads back to the mint."""
    source = webex.source(webex.app(), tmp_path / "grant.json")
    await source.get()
    webex.now += timedelta(days=14)
    assert await source.get() == "refreshed-canary-1"
    webex.now += timedelta(days=14)
    webex.refresh = [httpx.Response(400, json={"error": "invalid_grant"})]
    assert await source.get() == "minted-canary-2"
    assert webex.refreshed == ["minted-refresh-canary-1", "refreshed-refresh-canary-1"]


async def test_no_answer_of_the_token_endpoint_is_no_reason_to_mint(webex: Webex, tmp_path: Path) -> None:
    """A fault passes; until then the living token is used, and the refresh is not repeated at once."""
    source = webex.source(webex.app(), tmp_path / "grant.json")
    await source.get()
    webex.now += timedelta(days=14) - timedelta(minutes=5)
    webex.refresh = [httpx.Response(503)]
    with capture_logs():
        assert [await source.get() for _ in range(3)] == ["minted-canary-1"] * 3
    assert (len(webex.minted), len(webex.refreshed)) == (1, 1)


async def test_many_401s_at_once_mint_one_token(webex: Webex, tmp_path: Path) -> None:
    """Consent was taken back and given again: the old pair is dead, one new one is enough for all."""
    source = webex.source(webex.app(), tmp_path / "grant.json")
    await source.get()
    webex.living, webex.refresh = set(), [httpx.Response(401)]
    async with webex.client(source) as client:
        tenant = Tenant(client, source)
        await asyncio.gather(*(tenant.probe() for _ in range(30)))
    assert (len(webex.minted), len(webex.refreshed)) == (2, 1)


async def test_renewing_mints_anew(webex: Webex, tmp_path: Path) -> None:
    """New consent may have brought new scopes: what the old pair could give is not asked for."""
    source = webex.source(webex.app(), tmp_path / "grant.json")
    await source.get()
    await source.renew()
    assert await source.get() == "minted-canary-2"
    assert webex.refreshed == []


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_mint_is_a_credential_at_fault(webex: Webex, tmp_path: Path, status: int) -> None:
    """It says nothing about any meeting, and is not asked again at once; nothing of it is shown."""
    webex.mint = [httpx.Response(status, json={"message": "canary"})] * 5
    source = webex.source(webex.app(), tmp_path / "grant.json")
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(WebexUnauthorized) as refused:
                await source.get()
    assert len(webex.minted) == 1
    shown = [
        logs,
        refused.value,
        source,
        source._issuer,
        webex.app(),
        webex.app().app,
    ]
    assert "canary" not in repr(shown) + str(refused.value)


async def test_after_a_429_no_other_organisation_asks(webex: Webex, tmp_path: Path) -> None:
    """The caller's token is one, so what Webex asks of it holds for all."""
    webex.mint = [httpx.Response(429, headers={"Retry-After": "30"})]
    mint = webex.app()
    with capture_logs():
        for organization in (BARE, OTHER):
            with pytest.raises(WebexThrottled):
                await webex.source(mint, tmp_path / organization, organization=organization).get()
    assert len(webex.minted) == 1


async def test_a_new_secret_of_the_app_is_seen(webex: Webex, tmp_path: Path) -> None:
    """After a refusal it is tried at once, and whoever waits can tell that something changed."""
    webex.mint = [httpx.Response(401), httpx.Response(401)]
    source = webex.source(webex.app(), tmp_path / "grant.json")
    with capture_logs(), pytest.raises(WebexUnauthorized):
        await source.get()
    version, webex.secret = source.version(), "new-canary"
    assert source.version() != version
    webex.mint = []
    assert await source.get() == "minted-canary-2"
    assert [body["clientSecret"] for body in webex.minted] == ["app-secret-canary", "new-canary"]


async def test_each_organisation_has_its_own_token(webex: Webex, tmp_path: Path) -> None:
    """What was kept for one is not used for another, even from the same file."""
    mint = webex.app()
    await webex.source(mint, tmp_path / "grant.json").get()
    assert await webex.source(mint, tmp_path / "grant.json", organization=OTHER).get() == "minted-canary-2"


def test_an_organisation_must_be_one(webex: Webex, tmp_path: Path) -> None:
    """Nothing is sent to Webex that cannot be an id."""
    with pytest.raises(ValueError, match="organisation"):
        webex.source(webex.app(), tmp_path / "grant.json", organization="acme")
