from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from structlog.testing import capture_logs

from service.core.errors import WebexError, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.webex.client import Clock
from service.webex.protocol import Request
from service.webex.tokens import Credentials, FileToken, RefreshingToken, SecretFile, StaticToken
from tests.webex.wire import answered_by

READ = Request(operation="meetings.get", method="GET", path="/meetings/5", reads=True)
START = datetime(2026, 3, 1, tzinfo=UTC)


class Webex:
    """A token endpoint that counts, and knows which tokens live. Each refresh replaces the refresh token too."""

    def __init__(self, *failures: httpx.Response | type[httpx.RequestError], lifetime: float = 14 * 86_400) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.now = START
        self.secret, self.configured = "secret-canary", "refresh-0"
        self.delay = 0.0
        self._failures = list(failures)
        self._lifetime = lifetime

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.delay)
        self.forms.append(parse_qs(request.content.decode()))
        if self._failures:
            failure = self._failures.pop(0)
            if isinstance(failure, httpx.Response):
                return failure
            raise failure("secret-canary")
        n = len(self.forms)
        return httpx.Response(
            200,
            json={
                "access_token": f"access-{n}",
                "expires_in": self._lifetime,
                "refresh_token": f"refresh-{n}",
                "refresh_token_expires_in": 7_776_000,
            },
        )

    def source(self, persist: Path, *, configured: str = "refresh-0") -> RefreshingToken:
        """A token source that asks here; its clock is ``now``."""
        self.configured = configured
        return RefreshingToken(
            Credentials(client_id="app", client_secret=lambda: self.secret, refresh_token=lambda: self.configured),
            persist=persist,
            now=lambda: self.now,
            monotonic=lambda: (self.now - START).total_seconds(),
            transport=lambda: httpx.MockTransport(self),
        )


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def _damage(path: Path) -> None:
    path.write_bytes(b"{")


@pytest.fixture
def persist(tmp_path: Path) -> Path:
    return tmp_path / "token.json"


async def test_a_static_token_is_what_it_was_given_and_hides_it() -> None:
    """No refresh, no repr."""
    token = StaticToken(" abc.DEF-1\n")
    assert await token.get() == "abc.DEF-1"
    assert not await token.refresh("abc.DEF-1")
    assert "abc" not in repr(token)


@pytest.mark.parametrize("value", ["", "  ", "a b", "a\r\nX: y", "ä-canary", "a\x00"])
def test_what_cannot_stand_in_a_header_is_refused(value: str) -> None:
    """A line break in a token would be a header of its own; the value is not shown."""
    with pytest.raises(ValueError, match="token") as caught:
        StaticToken(value)
    assert "canary" not in str(caught.value)


async def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """A change is seen within ten seconds, or at once after a 401."""
    now, path = 0.0, tmp_path / "token"
    path.write_text("one\n")
    token = FileToken(path, monotonic=lambda: now)
    assert await token.get() == "one"
    path.write_text("second\n")
    assert await token.get() == "one"
    now = 10.0
    assert await token.get() == "second"
    assert not await token.refresh("second")
    path.write_text("third-")
    assert await token.refresh("second")
    assert await token.get() == "third-"
    assert "third" not in repr(token)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"a b"], ids=["missing", "empty", "binary", "two words"])
async def test_a_bad_file_keeps_the_last_good_token(tmp_path: Path, content: bytes | None) -> None:
    """While the file is being replaced the old token goes on; without any there is an error of ours."""
    now, path = 0.0, tmp_path / "token"
    with capture_logs():
        token = FileToken(path, monotonic=lambda: now)
        with pytest.raises(WebexUnauthorized):
            await token.get()
        path.write_text("good")
        assert await token.get() == "good"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        now = 20.0
        assert await token.get() == "good"
        assert not await token.refresh("good")


async def test_a_refresh_is_what_webex_documents(persist: Path) -> None:
    """One form with the four fields; the token lives until shortly before its end."""
    webex = Webex(lifetime=1000.0)
    source = webex.source(persist)
    assert source.expires() is None
    assert await source.get() == "access-1"
    assert source.expires() == START + timedelta(seconds=1000)
    assert webex.forms == [
        {
            "grant_type": ["refresh_token"],
            "client_id": ["app"],
            "client_secret": ["secret-canary"],
            "refresh_token": ["refresh-0"],
        }
    ]
    webex.now = START + timedelta(seconds=899)
    assert await source.get() == "access-1"
    webex.now = START + timedelta(seconds=901)
    assert await source.get() == "access-2"
    assert webex.forms[1]["refresh_token"] == ["refresh-1"]


async def test_what_was_granted_survives_a_restart(persist: Path) -> None:
    """The replaced refresh token is on disk, readable by nobody else; a restart asks for nothing."""
    webex = Webex()
    assert await webex.source(persist).get() == "access-1"
    assert _modes(persist.parent) == {persist.name: 0o600}
    again = webex.source(persist)
    assert await again.get() == "access-1"
    assert await again.refresh("access-1")
    assert [form["refresh_token"] for form in webex.forms] == [["refresh-0"], ["refresh-1"]]


async def test_a_newly_configured_refresh_token_begins_anew(persist: Path) -> None:
    """What is stored descends from another one, so it does not count; nor does what cannot be read."""
    webex = Webex()
    await webex.source(persist).get()
    assert await webex.source(persist, configured="refresh-new").get() == "access-2"
    _damage(persist)
    assert await webex.source(persist, configured="refresh-newest").get() == "access-3"
    assert [form["refresh_token"] for form in webex.forms] == [["refresh-0"], ["refresh-new"], ["refresh-newest"]]


async def test_a_token_that_cannot_be_stored_is_used_all_the_same(tmp_path: Path) -> None:
    """A full or missing folder costs an error line, not the service."""
    with capture_logs() as logs:
        assert await Webex().source(tmp_path / "missing" / "token.json").get() == "access-1"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["token.not_stored"]


async def test_a_hundred_401s_at_once_cost_one_refresh(persist: Path) -> None:
    """Everybody waits for the same refresh, and goes on with its token."""
    webex = Webex()
    source = webex.source(persist)
    await source.get()
    webex.delay = 0.05
    refused = 0

    async def api(request: httpx.Request) -> httpx.Response:
        nonlocal refused
        await asyncio.sleep(0.001)
        if request.headers["authorization"] != "Bearer access-2":
            refused += 1
            return httpx.Response(401)
        return httpx.Response(200, json={})

    async with answered_by(api, token=source, clock=Clock()) as client:
        replies = await asyncio.gather(*(client.call(READ) for _ in range(100)))
    assert [reply.status for reply in replies] == [200] * 100
    assert len(webex.forms) == 2
    assert refused >= 8


@pytest.mark.parametrize(
    ("failure", "kind", "asked_again_after"),
    [
        pytest.param(httpx.Response(400, json={"error": "invalid_grant"}), WebexUnauthorized, 60, id="refused"),
        pytest.param(httpx.Response(401), WebexUnauthorized, 60, id="wrong client"),
        pytest.param(httpx.Response(500), WebexUnavailable, 5, id="500"),
        pytest.param(httpx.Response(429, headers={"Retry-After": "30"}), WebexThrottled, 30, id="429"),
        pytest.param(httpx.ConnectError, WebexUnavailable, 5, id="unreachable"),
        pytest.param(httpx.Response(404), WebexUnauthorized, 60, id="no such endpoint"),
        pytest.param(httpx.Response(200, content=b"<html>"), WebexUnavailable, 5, id="HTML"),
        pytest.param(httpx.Response(200, json={"access_token": "a\r\nb"}), WebexUnavailable, 5, id="no token"),
        pytest.param(httpx.Response(200, json=[]), WebexUnavailable, 5, id="a list"),
    ],
)
async def test_a_failed_refresh_is_shared_and_not_repeated_at_once(
    failure: httpx.Response | type[httpx.RequestError], kind: type[WebexError], asked_again_after: int, persist: Path
) -> None:
    """Twenty who wait get the one failure; who comes soon after gets it too; later it is tried again.

    Nothing that a token endpoint says can be taken for an answer about a meeting: no 404, no rejection for good.
    """
    webex = Webex(failure)
    source = webex.source(persist)
    with capture_logs() as logs:
        failures = await asyncio.gather(*(source.get() for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in failures} == {kind}
        webex.now += timedelta(seconds=asked_again_after - 1)
        with pytest.raises(kind):
            await source.get()
        assert len(webex.forms) == 1
        webex.now += timedelta(seconds=1)
        assert await source.get() == "access-2"
    assert "canary" not in repr(logs) + repr(failures) + repr(source)


async def test_an_early_refresh_that_fails_leaves_the_living_token(persist: Path) -> None:
    """Until its real end the old token is used."""
    webex = Webex(lifetime=1000.0)
    source = webex.source(persist)
    await source.get()
    webex._failures = [httpx.Response(503)]
    webex.now += timedelta(seconds=950)
    with capture_logs():
        assert await source.get() == "access-1"
    webex.now += timedelta(seconds=50)
    assert await source.get() == "access-3"


async def test_a_revoked_refresh_token_means_no_other_token(persist: Path) -> None:
    """A 401 then stays a 401, without a hot loop at the token endpoint."""
    webex = Webex()
    source = webex.source(persist)
    await source.get()
    webex._failures = [httpx.Response(400)] * 9
    with capture_logs():
        for _ in range(5):
            assert not await source.refresh("access-1")
    assert len(webex.forms) == 2


async def test_a_cancelled_waiter_does_not_lose_the_new_refresh_token(persist: Path) -> None:
    """The refresh goes on and is stored, whoever gave up."""
    webex = Webex()
    webex.delay = 0.02
    source = webex.source(persist)
    waiter = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert await source.get() == "access-1"
    assert len(webex.forms) == 1


def test_a_token_url_in_the_clear_is_refused(persist: Path) -> None:
    """The client secret goes over https, or to loopback."""
    credentials = Credentials(
        client_id="a", client_secret=lambda: "b", refresh_token=lambda: "c", token_url="http://webexapis.com/x"
    )
    with pytest.raises(ValueError, match="https"):
        RefreshingToken(credentials, persist=persist)


# What changes while we run


async def test_a_secret_in_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """A change is seen within ten seconds; while the file is bad the last good content stays, and the log says so once."""
    now, path = 0.0, tmp_path / "client-secret"
    path.write_text("one-canary\n")
    secret = SecretFile(path, monotonic=lambda: now)
    assert secret() == "one-canary"
    path.write_text("second-canary")
    now = 10.0
    assert secret() == "second-canary"
    path.unlink()
    with capture_logs() as logs:
        for _ in range(3):
            now += 10.0
            assert secret() == "second-canary"
    assert [line["event"] for line in logs] == ["token.file_unreadable"]
    assert "canary" not in repr(logs) + repr(secret)


async def test_a_new_client_secret_is_used_for_the_next_refresh(persist: Path) -> None:
    """Nothing is refreshed because of it: the token is still good."""
    webex = Webex(lifetime=1000.0)
    source = webex.source(persist)
    await source.get()
    webex.secret = "rotated"
    assert await source.get() == "access-1"
    webex.now += timedelta(seconds=950)
    assert await source.get() == "access-2"
    assert [form["client_secret"] for form in webex.forms] == [["secret-canary"], ["rotated"]]


async def test_a_new_refresh_token_is_used_at_once(persist: Path) -> None:
    """Its tokens are another owner's, so the old ones end; what is stored descends from the new one."""
    webex = Webex()
    source = webex.source(persist)
    await source.get()
    webex.configured = "refresh-new"
    assert await source.get() == "access-2"
    assert await source.get() == "access-2"
    assert [form["refresh_token"] for form in webex.forms] == [["refresh-0"], ["refresh-new"]]
    assert await webex.source(persist, configured="refresh-new").get() == "access-2"


async def test_a_bad_new_refresh_token_does_not_end_the_old_one(persist: Path) -> None:
    """Until the new one has given a token, the last good one goes on, without a hot loop; a better one is tried at once."""
    webex = Webex()
    source = webex.source(persist)
    await source.get()
    webex._failures = [httpx.Response(400)]
    webex.configured = "refresh-wrong"
    with capture_logs():
        assert [await source.get() for _ in range(5)] == ["access-1"] * 5
    assert len(webex.forms) == 2
    webex.configured = "refresh-right"
    assert await source.get() == "access-3"


async def test_after_a_refusal_a_new_secret_is_tried_at_once(persist: Path) -> None:
    """Who repairs the credential does not wait for the end of a pause."""
    webex = Webex(httpx.Response(401))
    source, wrong = webex.source(persist), webex.secret
    with capture_logs():
        for _ in range(3):
            with pytest.raises(WebexUnauthorized):
                await source.get()
    version = source.version()
    webex.secret = "right"
    assert source.version() != version
    assert await source.get() == "access-2"
    assert [form["client_secret"] for form in webex.forms] == [[wrong], ["right"]]


async def test_a_token_can_be_asked_for_anew(persist: Path) -> None:
    """Whatever failed before, and though the old one is still good."""
    webex = Webex()
    source = webex.source(persist)
    await source.get()
    webex._failures = [httpx.Response(400)]
    with capture_logs():
        with pytest.raises(WebexUnauthorized):
            await source.renew()
        assert await source.get() == "access-1"
        await source.renew()
    assert await source.get() == "access-3"


async def test_what_another_process_renewed_is_taken_over(persist: Path) -> None:
    """Two processes on one file: the one that comes second takes what the first was given, and spends no dead token."""
    webex = Webex()
    service, tool = webex.source(persist), webex.source(persist)
    assert await service.get() == "access-1"
    webex.now += timedelta(days=1)
    assert await tool.get() == "access-1"
    assert await tool.refresh("access-1")
    assert await service.refresh("access-1")

    assert await service.get() == "access-2"
    assert [form["refresh_token"] for form in webex.forms] == [["refresh-0"], ["refresh-1"]]
