"""An independent judge between client and sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import WebexError
from service.webex.client import Reply, WebexClient
from service.webex.operations import OPERATIONS, operation, request_for
from service.webex.tokens import StaticToken
from tests.contracts.document import Document
from tests.contracts.sandbox.judge import Judge, demand_a_judge, judging, written_for_the_judge
from tests.contracts.sandbox.populated import NOW, populated

pytestmark = pytest.mark.timeout(240)

_START = NOW + timedelta(days=2)
_TIMES = {"start": _START.isoformat(), "end": (_START + timedelta(hours=1)).isoformat()}
_PERSON = {"firstName": "Ada", "lastName": "Abel", "email": "ada@example.org", "zipCode": 1010}
_HOST = {"hostEmail": "host@example.com"}
_HOOK = {"name": "All", "targetUrl": "http://127.0.0.1:9/hook", "resource": "meetings", "event": "created"}


@pytest.fixture(autouse=True)
def _programs() -> None:
    demand_a_judge()


class Run:
    """The client, and which operations it has called."""

    def __init__(self, client: WebexClient) -> None:
        self._client = client
        self.called: list[str] = []

    async def __call__(self, resource: str, verb: str, *ids: str, **parts: Any) -> Any:
        """One call; ``ids`` in the order of the path. The value of the answer."""
        op = operation(resource, verb)
        names = [parameter.name for parameter in op.parameters if parameter.place == "path"]
        reply: Reply = await self._client.call(request_for(op, path=dict(zip(names, ids, strict=True)), **parts))
        self.called.append(op.id)
        return reply.value


async def _everything(run: Run, ids: Mapping[str, list[str]]) -> None:
    """Each operation once or more, with every kind of answer that the sandbox has."""
    series = await _meetings(run)
    await _lists(run, series)
    await _registrants(run, series)
    await run("meetings", "delete", series, query={**_HOST, "sendEmail": False})
    await run("meetings", "end", ids["inProgress"][0], body={"reason": "Done"})
    await _webhooks(run)
    await run("guests", "create", body={"subject": "patient", "displayName": "A patient"})
    assert str(await run("guests", "count")) == "1"
    keys = {"clientId": "id", "clientSecret": "secret", "targetOrgId": "org"}
    await run("applications", "token", "app", body=keys)


async def _meetings(run: Run) -> str:
    question = {"question": "Team", "type": "dropdownList", "options": [{"value": "A"}], "rules": []}
    form = {"autoAcceptRequest": False, "customizedQuestions": [question]}
    full = {"title": "Judged", "agenda": "All", **_TIMES, "registration": form, "integrationTags": ["tag"]}
    series = str((await run("meetings", "create", body=full))["id"])
    recurring = {"title": "Recurring", **_TIMES, "recurrence": "FREQ=WEEKLY;COUNT=3"}
    again = (await run("meetings", "create", body=recurring))["id"]
    occurrence = (await run("meetings", "get", again, query={"current": True}))["id"]
    await run("meetings", "patch", occurrence, body={"title": "Other"})
    for id_ in (series, occurrence):
        await run("meetings", "get", id_, query=_HOST, headers={"timezone": "Europe/Vienna"})
    await run("meetings", "patch", series, body={"agenda": "Changed", **_HOST})
    await run("meetings", "update", series, body={"title": "Judged", **_TIMES})
    links = {"meetingId": series, "joinDirectly": False, "email": "ada@example.org", "displayName": "Ada"}
    await run("meetings", "join", body=links)
    return series


async def _lists(run: Run, series: str) -> None:
    wide = {"from": _START - timedelta(days=3), "to": _START + timedelta(days=30)}
    for kind in ("meetingSeries", "scheduledMeeting", "meeting"):
        listed = await run("meetings", "list", query={"meetingType": kind, "max": 100, **wide})
        assert listed["items"]
    await run("meetings", "list", query={"meetingSeriesId": series})
    await run("registration", "get", series, query=_HOST)
    await run("registration", "update", series, body={**_HOST, "requireJobTitle": False})
    await run("registrants", "list", series)


async def _registrants(run: Run, series: str) -> None:
    person = await run("registrants", "register", series, body=_PERSON)
    items = [{**_PERSON, "email": f"ada.{n}@example.org"} for n in range(12)]
    people = (await run("registrants", "bulk-insert", series, body={"items": items}))["items"]
    await run("registrants", "list", series, query={"max": 5, "email": person["email"]})
    await run("registrants", "query", series, query={"max": 5}, body={"emails": [person["email"]], "status": "pending"})
    await run("registrants", "get", series, person["id"], query=_HOST)
    chosen = {"sendEmail": False, "registrants": [{"id": each["id"]} for each in people]}
    for verb in ("approve", "cancel", "reject", "bulk-delete"):
        await run("registrants", verb, series, body=chosen)
    await run("registrants", "delete", series, person["id"])
    await run("registration", "delete", series, headers=_HOST)


async def _webhooks(run: Run) -> None:
    own = (await run("webhooks", "create", body={**_HOOK, "secret": "s3cret", "filter": "state=active"}))["id"]
    await run("webhooks", "create", body={**_HOOK, "event": "ended", "ownedBy": "org"})
    await run("webhooks", "list")
    await run("webhooks", "list", query={"ownedBy": "org", "max": 10})
    await run("webhooks", "get", own)
    await run("webhooks", "update", own, body={"name": "Other", "targetUrl": _HOOK["targetUrl"], "status": "active"})
    await run("webhooks", "delete", own)


@pytest.fixture
async def judged(
    cisco: Document, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Judge, Mapping[str, list[str]]]]:
    """The judge in front of a sandbox, and the ids in that."""
    document = written_for_the_judge(tmp_path)
    async with populated(around=getattr(request, "param", None)) as (url, ids), judging(document, f"{url}/v1") as judge:
        yield judge, ids


async def test_the_judge_finds_nothing(judged: tuple[Judge, Mapping[str, list[str]]]) -> None:
    """The client calls every operation, and neither its requests nor the sandbox's answers break Cisco's document."""
    judge, ids = judged
    async with WebexClient(judge.url, StaticToken("token")) as client:
        run = Run(client)
        await _everything(run, ids)
    assert judge.violations == []
    assert set(run.called) == {op.id for op in OPERATIONS}


def _without_title(app: ASGIApp) -> ASGIApp:
    """A sandbox that forgets a field that Cisco's document requires."""

    async def spoilt(scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": message["body"].replace(b'"title"', b'"tItle"')}
            await send(message)

        await app(scope, receive, changed if scope["type"] == "http" else send)

    return spoilt


@pytest.mark.parametrize("judged", [_without_title], indirect=True, ids=["no title"])
async def test_the_judge_would_say_so(judged: tuple[Judge, Mapping[str, list[str]]]) -> None:
    """An answer without a required field is a violation, and so is a request of another type."""
    judge, ids = judged
    async with WebexClient(judge.url, StaticToken("token")) as client:
        with pytest.raises(WebexError):
            await Run(client)("meetings", "get", ids["meetingId"][0])
        with pytest.raises(WebexError):
            await Run(client)("meetings", "create", body={"title": 1, **_TIMES})
    assert len(judge.violations) >= 2
