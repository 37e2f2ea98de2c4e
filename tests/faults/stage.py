"""What the scenarios share: faults of the simulated Webex, figures instead of lists, and several processors.

Everything is seen from outside, as in :mod:`tests.line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.core.event import CloudEvent
from tests import line as lines
from tests.line import Line, call, facts
from tests.servers import running

#: A month: an incremental look, which begins 15 minutes before the newest registration, then meets only a few people.
MONTH = 30 * 86_400

#: The calls that change something.
WRITES = ("batchApproveMeetingRegistrants", "batchRejectMeetingRegistrants", "batchCancelMeetingRegistrants")


async def fault(line: Line, **body: Any) -> None:
    """Something goes wrong at the simulated Webex from now on (:mod:`service.sandbox.faults`)."""
    await call(line, "POST", "/sandbox/faults", json=body)


async def no_faults(line: Line) -> None:
    """All is well again."""
    await call(line, "DELETE", "/sandbox/faults")


async def people(line: Line, meeting: str, count: int, domain: str, *, spread: int = MONTH) -> list[str]:
    """So many have registered over the last ``spread`` seconds; their ids."""
    body = {"meetingId": meeting, "count": count, "domain": domain, "spreadSeconds": spread}
    made = await call(line, "POST", "/sandbox/people", json=body)
    return list(made["ids"])


async def figures(line: Line, meeting: str = "") -> dict[str, Any]:
    """What became of the registrants of a meeting, or of all, counted; and how often which operation was called."""
    return dict(await call(line, "GET", "/sandbox/figures", params={"meetingId": meeting}))


async def calls(line: Line, *operations: str) -> list[dict[str, Any]]:
    """The latest calls, one by one; of these ``operations``, or all."""
    found = (await lines.ledger(line))["calls"]
    return [one for one in found if not operations or one["operationId"] in operations]


def moment(one: dict[str, Any]) -> datetime:
    """When a call was answered."""
    return datetime.fromisoformat(one["at"])


async def eventually(true: Callable[[], Awaitable[bool]], *, within: float, every: float = 0.25) -> float:
    """Wait until it is so; the seconds that it took."""
    begun = time.monotonic()
    while not await true():
        assert time.monotonic() - begun < within, f"waited in vain for {within:.0f} s"
        await asyncio.sleep(every)
    return time.monotonic() - begun


async def statuses(line: Line, meeting: str, wanted: dict[str, int]) -> bool:
    """Whether so many have each status, and nobody another one."""
    return bool((await figures(line, meeting))["statuses"] == wanted)


async def quiet(line: Line, *, seconds: float = 2, within: float = 90) -> None:
    """Wait until nothing has been written to Webex for so long; looks may go on."""
    deadline = time.monotonic() + within
    written = -1
    while written != (written := _written((await figures(line))["tallies"])):
        assert time.monotonic() < deadline, "it does not come to rest"
        await asyncio.sleep(seconds)


def _written(tallies: dict[str, int]) -> int:
    return sum(count for key, count in tallies.items() if key.rpartition(" ")[0] in WRITES)


async def looked_again(line: Line, meetings: Iterable[str], times: int = 1, *, within: float = 60) -> None:
    """Wait until each meeting's registrants were listed so many times more, from now on."""
    before, wanted = await _looks(line), list(meetings)

    async def seen() -> bool:
        now = await _looks(line)
        return all(now[meeting] - before[meeting] >= times for meeting in wanted)

    await eventually(seen, within=within)


async def _looks(line: Line) -> Counter[str]:
    """Walks over the list of a meeting begin with the call for the meeting itself."""
    return Counter(one["meetingId"] for one in await calls(line, "getMeetingById") if one["status"] == 200)


@dataclass
class Stories:
    """The facts about registrants: of each, what was told in which order, whatever came twice told once."""

    told: dict[str, list[CloudEvent]] = field(default_factory=dict)
    repeated: int = 0

    @classmethod
    async def of(cls, line: Line, meetings: Iterable[str]) -> Stories:
        """Read the topic; the journal's only after the line has stopped."""
        stories, seen, wanted = cls(), set[str](), set(meetings)
        for _, fact in await facts(line):
            if fact.data["meetingId"] not in wanted:
                continue
            stories.repeated += fact.id in seen
            if fact.id not in seen:
                stories.told.setdefault(fact.data["id"], []).append(fact)
            seen.add(fact.id)
        return stories

    def kinds(self, id_: str) -> list[str]:
        """What was told of one."""
        return [kind(fact) for fact in self.told.get(id_, ())]

    def count(self) -> Counter[tuple[str, ...]]:
        """How many have which story."""
        return Counter(tuple(self.kinds(id_)) for id_ in self.told)

    def without_reason(self) -> list[str]:
        """Those with a decision of ours that does not say who, by which rule and why."""
        return [id_ for id_, told in self.told.items() if not all(map(_explained, told))]


def kind(fact: CloudEvent) -> str:
    """``approved`` of ``webex.registrant.approved.v1``."""
    return fact.type.split(".")[2]


def _explained(fact: CloudEvent) -> bool:
    if kind(fact) not in ("approved", "rejected", "held", "waitlisted"):
        return True
    decision = fact.data.get("decision") or {}
    return bool(decision.get("by") and decision.get("reason"))


# --- webhooks as they were sent ---------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Keeps every webhook that comes in: what somebody could send again."""

    url: str = ""
    captured: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def listening(cls) -> AsyncIterator[Recorder]:
        """One that listens while the block runs."""
        recorder = cls()
        async with running(Starlette(routes=[Route("/", recorder._take, methods=["POST"])])) as base:
            recorder.url = f"{base}/"
            yield recorder

    async def _take(self, request: Request) -> Response:
        kept = {name: value for name, value in request.headers.items() if "signature" in name or name == "content-type"}
        self.captured.append((await request.body(), kept))
        return Response(status_code=204)

    async def register(self, line: Line) -> None:
        """From now on Webex sends every webhook about meetings here too, with the same secret."""
        hook = {"name": "recorder", "targetUrl": self.url, "resource": "meetings", "event": "all"}
        await call(line, "POST", "/v1/webhooks", json={**hook, "secret": lines.SECRET})


async def send_again(line: Line, captured: Sequence[tuple[bytes, dict[str, str]]], *, width: int = 16) -> Counter[int]:
    """Replay them all; how often which status was the answer."""
    answers: Counter[int] = Counter()
    gate = asyncio.Semaphore(width)

    async def one(body: bytes, headers: dict[str, str]) -> None:
        async with gate:
            answer = await line.client.post(line.webhook, content=body, headers=headers)
            answers[answer.status_code] += 1

    async with asyncio.TaskGroup() as group:
        for body, headers in captured:
            group.create_task(one(body, headers))
    return answers


# --- logs -------------------------------------------------------------------------------------------------------------


def logged(line: Line, name: str) -> list[dict[str, Any]]:
    """The log lines of one event so far."""
    return [json.loads(each) for each in line.printed().splitlines() if f'"event": "{name}"' in each]
