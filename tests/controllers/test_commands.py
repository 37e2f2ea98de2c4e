"""Commands end to end: the topics of a real journal, the simulated Webex over real sockets, one outcome for each id."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service import settings
from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher, JournalReader
from service.controllers import guests
from service.controllers.commands import Again, CommandsController, Done
from service.controllers.intake import LOOP, Intake
from service.controllers.ledger import Ledger, Place
from service.controllers.letters import Letters
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.sponsors import Sponsors
from service.core import commands, policy, work
from service.core import event as events
from service.core.commands import Allowed, mark_of
from service.core.errors import CannotStore, RecordRefused
from service.core.event import CloudEvent, rfc3339
from service.core.ledger import Entry, Fact, Intent, Seen
from service.core.message import Message
from service.core.organizations import Organization, Organizations, organization_id
from service.core.policy import Policy
from service.core.work import Command
from service.sandbox.app import create_app
from service.sandbox.records import Limits
from service.sandbox.world import World
from service.webex.client import Clock, WebexClient
from service.webex.commanding import Catalogue
from service.webex.operations import OPERATIONS
from service.webex.tenant import Tenant
from service.webex.tokens import StaticToken
from tests.fakes import CountingObserver, PickyPublisher
from tests.sandbox import simulated
from tests.servers import running
from tests.webex.test_commanding import OPERATIONS_COMMANDED, example

TOKEN = "right"
APP = "Y2lzY29zcGFyazovL3VzL0FQUExJQ0FUSU9OL2d1ZXN0cw"
EVERYTHING = Allowed(operations=("*",))
KEY = "order-7"

#: Cisco's operationId, by our name for it; sponsoring creates a meeting.
IDS = {op.name: op.id for op in OPERATIONS} | {"guests.sponsor": "createMeeting"}
WRITES = [name for name in OPERATIONS_COMMANDED if name.partition(".")[2] not in ("list", "get", "query", "count")]


@dataclass
class Bench:
    """Who takes in and who executes, with everything they work with; :meth:`restarted` gives the next process."""

    journal: Journal
    world: World
    clock: simulated.Clock
    address: str
    clients: dict[str, WebexClient]
    http: httpx.AsyncClient
    allowed: Allowed = EVERYTHING
    restricted: bool = False
    organizations: Organizations = field(default_factory=Organizations)
    policy: Policy = field(default_factory=lambda: policy.parse("version: 1\ndefault: hold\nrules: []"))
    observer: CountingObserver = field(default_factory=CountingObserver)
    doubted: list[Place] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    beats: list[str] = field(default_factory=list)
    seen: int = 0
    before: dict[str, int] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.publisher = PickyPublisher(JournalPublisher(self.journal), lambda _: False)
        self.ledger = Ledger(reader=JournalReader(self.journal), publisher=self.publisher)
        ownership = Ownership(self.ledger, instance="one", unconfirmed=lambda: 0.0, now=self.clock)
        self.tenants = self.tenants or {key: _tenant(client) for key, client in self.clients.items()}
        permission = Permission(ledger=self.ledger, ownership=ownership, policy=lambda: self.policy)
        self.sponsors = Sponsors(
            tenants=self.tenants,
            licence=2,
            clock=guests.Clock(now=self.clock, sleep=self._pass),
            patience=guests.Patience(look=(0.0,)),
        )
        self.controller = CommandsController(
            tenants=self.tenants,
            ledger=self.ledger,
            permission=permission,
            sponsors=self.sponsors,
            allowed=self.allowed,
            observer=self.observer,
            receiver="test",
            now=self.clock,
            restricted=self.restricted,
            doubt=self.doubted.append,
            usable=lambda place: place.organization not in self.unusable,
            chance=lambda: 0.5,
        )

    async def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)

    async def restarted(self, **changes: Any) -> Bench:
        """The next process on the same journal."""
        names = ("allowed", "restricted", "organizations", "policy", "seen", "before", "tenants")
        kept = {name: getattr(self, name) for name in names}
        parts = (self.journal, self.world, self.clock, self.address, self.clients, self.http)
        made = Bench(*parts, **{**kept, **changes})
        await made.ledger.restore(0)
        return made

    @property
    def place(self) -> Place:
        return self.ledger.place("default", 0)

    # -- the topics ----------------------------------------------------------------------------------------------------

    async def send(self, *sent: Mapping[str, Any] | bytes, key: str = KEY) -> None:
        """Somebody puts these on the topic ``commands``."""
        values = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in sent]
        await JournalPublisher(self.journal).publish(
            [Message(topic="commands", key=key, value=value, partition_by=key) for value in values]
        )

    async def take_in(self) -> None:
        """Until everything on ``commands`` was handed over."""
        consumer = JournalConsumer(self.journal, topic="commands", group="processors-commands")
        intake = Intake(
            consumer=consumer,
            publisher=self.publisher,
            catalogue=Catalogue(),
            allow=self.allowed,
            organizations=self.organizations,
            now=self.clock,
            letters=Letters(
                publisher=self.publisher, observer=self.observer, receiver="test", topic="commands", now=self.clock
            ),
            pulse=self.beats.append,
        )
        stop = asyncio.Event()
        running_ = asyncio.create_task(intake.run(stop))
        _, end = await self.journal.bounds("commands")
        while await self.journal.committed("processors-commands", "commands") != end:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        stop.set()
        running_.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running_

    async def begun(self, sent: Mapping[str, Any], *, seen: bool = False) -> Command:
        """Take it in; the process died after it was begun, and before the call."""
        await self.send(sent)
        await self.take_in()
        (command,) = await self.commands()
        await self.ledger.record(self.place, commands.begun(command, now=self.clock(), seen=seen))
        return command

    async def commands(self) -> list[Command]:
        """What stands on ``work`` and was not executed yet."""
        found = [work.decode(one) for one in (await self.values("work"))[self.seen :]]
        return [one for one in found if isinstance(one, Command)]

    async def execute(self, *, patience: int = 60) -> None:
        """As the worker does: each until it is done; time passes while it waits."""
        for command in await self.commands():
            for attempts in range(patience):
                result = await self.controller.execute(self.place, command, attempts)
                if isinstance(result, Done):
                    break
                assert isinstance(result, Again)
                self.waits.append(result.delay)
                self.clock.advance(seconds=result.delay)
            else:
                raise AssertionError("never done")
            self.seen += 1

    async def asked(self, *sent: Mapping[str, Any] | bytes) -> list[CloudEvent]:
        """Send, take in, execute: every outcome that there is then."""
        await self.send(*sent)
        await self.take_in()
        await self.execute()
        return await self.outcomes()

    async def values(self, topic: str) -> list[bytes]:
        _, following = await self.journal.bounds(topic)
        records = await self.journal.read(topic, 0, following) if following else []
        return [record.message.value or b"" for record in records]

    async def outcomes(self, topic: str = "outcomes") -> list[CloudEvent]:
        return [events.decode(one) for one in await self.values(topic)]

    # -- the simulated Webex -------------------------------------------------------------------------------------------

    async def webex(self, method: str, path: str, body: Any = None) -> Any:
        """What a person does there."""
        answer = await self.http.request(method, f"{self.address}{path}", json=body)
        assert answer.status_code < 300, (method, path, answer.text)
        return answer.json() if answer.content else None

    async def fault(self, **fault: Any) -> None:
        await self.webex("POST", "/sandbox/faults", fault)

    async def calls(self, operation: str) -> int:
        """How often Webex was asked for it, by whatever answer, since the scene was set."""
        tallies = await self._tallies()
        return tallies.get(IDS[operation], 0) - self.before.get(IDS[operation], 0)

    async def _tallies(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for name, count in (await self.webex("GET", "/sandbox/ledger"))["tallies"].items():
            operation = name.rpartition(" ")[0]
            counted[operation] = counted.get(operation, 0) + count
        return counted

    async def all_calls(self) -> int:
        return sum((await self._tallies()).values())

    async def scene(self, operation: str) -> dict[str, Any]:
        """The published example of a command, about a meeting and a registrant that there are."""
        made = await self._scene(operation)
        self.before = await self._tallies()
        return made

    async def _scene(self, operation: str) -> dict[str, Any]:
        if operation.startswith("guests"):
            token = self.world.tokens.issue_for_app(APP, org=self.world.identity.organization, client="id:secret")
            self.tenants["default"] = _tenant(self._client(str(token["access_token"])))
            return example(operation)
        meeting = await self.webex("POST", "/v1/meetings", _MEETING)
        form = {"firstName": "Ann", "lastName": "Poe", "email": "ann@example.org"}
        person = await self.webex("POST", f"/v1/meetings/{meeting['id']}/registrants", form)
        if operation == "meetings.end":
            await self.webex("POST", f"/sandbox/meetings/{meeting['id']}/start")
        if operation == "registrants.cancel":
            batch = {"registrants": [{"id": person["id"]}]}
            await self.webex("POST", f"/v1/meetings/{meeting['id']}/registrants/approve", batch)
        return dict(_replaced(example(operation), {_EXAMPLE_MEETING: meeting["id"], _EXAMPLE_PERSON: person["id"]}))

    def _client(self, token: str) -> WebexClient:
        made = _client(self.address, token, self.clock)
        self.clients[f"app {len(self.clients)}"] = made
        return made


def _client(address: str, token: str, clock: simulated.Clock) -> WebexClient:
    """A client for which time passes when the test says so."""

    async def passing(seconds: float) -> None:
        clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    time = Clock(now=clock, monotonic=lambda: clock().timestamp(), sleep=passing, chance=lambda: 0.5)
    return WebexClient(f"{address}/v1", StaticToken(token), clock=time)


def _tenant(client: WebexClient) -> Tenant:
    return Tenant(client, _Fixed("unused"))


class _Fixed(StaticToken):
    """A credential that nothing happens to."""

    async def renew(self) -> None:
        """Never asked."""

    def version(self) -> str:
        """Always the same."""
        return "1"


_EXAMPLE_MEETING, _EXAMPLE_PERSON = "870f51ff287b41be8648412901e0402b", "123456"
_MEETING = {
    "title": "Partner day",
    "start": "2026-01-12T10:00:00Z",
    "end": "2026-01-12T11:00:00Z",
    "password": "Pa55word",
    "registration": {"autoAcceptRequest": False, "requireFirstName": True, "requireEmail": True},
}


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(each, texts) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, texts) for each in value]
    return texts.get(value, value) if isinstance(value, str) else value


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Everything is allowed, and the only organisation is ours."""
    clock = simulated.Clock()
    async with contextlib.AsyncExitStack() as stack:
        journal = await stack.enter_async_context(await Journal.open(tmp_path))
        world = stack.enter_context(simulated.opened(clock=clock))
        world.set_limits(Limits(licence=2))
        address = await stack.enter_async_context(running(create_app(world, token=TOKEN)))
        headers = {"authorization": f"Bearer {TOKEN}"}
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, headers=headers))
        clients = {"default": _client(address, TOKEN, clock)}
        made = Bench(journal, world, clock, address, clients, http)
        await made.ledger.restore(0)
        yield made
        for client in clients.values():
            await client.aclose()


def _only(outcomes: list[CloudEvent]) -> tuple[str, dict[str, Any]]:
    """The kind and the data of the one outcome."""
    (outcome,) = outcomes
    return outcome.type.split(".")[2], outcome.data


def _error(outcomes: list[CloudEvent]) -> tuple[str, str]:
    """Kind and reason of the one outcome."""
    kind, data = _only(outcomes)
    return kind, data["error"]["reason"]


def texts_in(value: Any) -> list[str]:
    """Every text, and every name of a field that holds more than a flag."""
    if isinstance(value, dict):
        named = [name for name, each in value.items() if not isinstance(each, bool | None)]
        return named + [text for each in value.values() for text in texts_in(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_in(each)]
    return [value] if isinstance(value, str) else []


# --- every type of command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
async def test_happy_path_and_duplicate_id(bench: Bench, operation: str) -> None:
    """The published example succeeds; sent twice at once, again later, and again to the next process, it has one outcome of
    the promised shape, without a secret, and Webex was asked once.
    """
    sent = await bench.scene(operation)
    await bench.asked(sent, {**sent, "time": "2026-01-10T09:00:01Z"})
    await bench.asked(sent)
    later = await bench.restarted()
    outcomes = await later.asked(sent)
    kind, data = _only(outcomes)
    texts = " ".join(texts_in(data)).lower()

    assert (kind, data["commandId"], data["operation"], data["error"]) == ("succeeded", sent["id"], operation, None)
    assert set(data) == {"commandId", "operation", "status", "response", "error"}
    assert data["status"] in (200, 204)
    assert (outcomes[0].partitionkey, outcomes[0].origin) == (KEY, "command")
    assert [word for word in ("password", "hostkey", "link", "token", "secret", "://", "pa55") if word in texts] == []
    assert bench.observer.commands == [(operation, "succeeded")]
    assert await bench.calls(operation) == 1


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
async def test_refused_and_failed(bench: Bench, operation: str) -> None:
    """Not allowed, or malformed: refused, and nothing was asked of Webex. Webex says no: failed, with its status, at once."""
    sent = await bench.scene(operation)
    calls = await bench.all_calls()
    for allowed in (Allowed(), Allowed(operations=("meetings.other", "x.*"))):
        closed = await bench.restarted(allowed=allowed)
        await closed.asked({**sent, "id": f"not allowed {len(allowed.operations)}"})
        bench.seen = closed.seen
    odd = json.loads(json.dumps({**sent, "id": "malformed"}))
    odd["data"]["parameters"]["nonsense"] = "x"
    await bench.asked(odd)
    assert await bench.all_calls() == calls

    await bench.fault(operation=IDS[operation], status=403)
    outcomes = {one.data["commandId"]: one for one in await bench.asked(sent)}
    said = {id_: (one.type, one.data["status"], one.data["error"]["reason"]) for id_, one in outcomes.items()}
    refused, failed = "webex.command.refused.v1", "webex.command.failed.v1"

    assert said == {
        "not allowed 0": (refused, None, "notAllowed"),
        "not allowed 2": (refused, None, "notAllowed"),
        "malformed": (refused, None, "malformed"),
        sent["id"]: (failed, 403, "forbidden"),
    }
    assert {one.data["response"] for one in outcomes.values()} == {None}
    assert outcomes[sent["id"]].data["error"]["trackingId"].startswith("SANDBOX_")
    assert await bench.calls(operation) == 1
    assert bench.doubted == [bench.place]
    assert len(await bench.outcomes()) == 4


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "rejected"), (401, "unauthorized"), (404, "notFound"), (409, "conflict")]
)
@pytest.mark.parametrize("operation", ["meetings.patch", "registrants.list", "meetings.create"])
async def test_webex_says_no(bench: Bench, operation: str, status: int, reason: str) -> None:
    """Every such answer is the outcome at once; a 404 too, unlike for a look."""
    sent = await bench.scene(operation)
    await bench.fault(operation=IDS[operation], status=status)
    kind, data = _only(await bench.asked(sent))

    assert (kind, data["status"], data["error"]["reason"]) == ("failed", status, reason)
    assert await bench.calls(operation) == 1
    assert bench.waits == []


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
async def test_dropped_response(bench: Bench, operation: str) -> None:
    """The call has its effect and its answer is lost: it is looked for, nothing is done twice, and there is one outcome."""
    sent = await bench.scene(operation)
    await bench.fault(operation=IDS[operation], dropResponse=1)
    kind, data = _only(await bench.asked(sent))

    if operation == "guests.create":
        assert (kind, data["error"]["reason"]) == ("failed", "outcomeUnknown")
    else:
        assert (kind, data["error"]) == ("succeeded", None)
    if operation in WRITES and operation != "meetings.join":
        assert await bench.calls(operation) == 1


@pytest.mark.parametrize("operation", WRITES)
async def test_killed_in_the_middle(bench: Bench, operation: str) -> None:
    """The process dies after the call and before the outcome: the next one looks, and nothing is done twice."""
    sent = await bench.scene(operation)
    await bench.send(sent)
    await bench.take_in()
    bench.publisher.refuse = lambda message: message.topic == "outcomes"
    (command,) = await bench.commands()
    with pytest.raises(CannotStore):
        await bench.controller.execute(bench.place, command, 0)
    later = await bench.restarted()
    await later.execute()
    kind, data = _only(await later.outcomes())

    if operation == "guests.create":
        assert (kind, data["error"]["reason"]) == ("failed", "outcomeUnknown")
    else:
        assert (kind, data["error"]) == ("succeeded", None)
    assert await bench.calls(operation) == (2 if operation == "meetings.join" else 1)


# --- once, and only once ----------------------------------------------------------------------------------------------


async def test_an_outcome_that_could_not_be_stored_is_only_published(bench: Bench) -> None:
    """The same process publishes it later, without another call or look."""
    sent = await bench.scene("registrants.approve")
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    bench.publisher.refuse = lambda message: message.topic == "outcomes"
    with pytest.raises(CannotStore):
        await bench.controller.execute(bench.place, command, 0)
    calls = await bench.all_calls()
    bench.publisher.refuse = lambda _: False
    await bench.execute()

    assert _only(await bench.outcomes())[1]["status"] == 204
    assert await bench.all_calls() == calls


async def test_two_at_the_same_time_are_one(bench: Bench) -> None:
    """A command that came twice, executed side by side: one meeting."""
    sent = await bench.scene("meetings.create")
    await bench.send(sent, sent)
    await bench.take_in()
    both = await bench.commands()
    assert len(both) == 2
    await asyncio.gather(*(bench.controller.execute(bench.place, each, 0) for each in both))

    assert _only(await bench.outcomes())[0] == "succeeded"
    assert await bench.calls("meetings.create") == 1


async def test_the_same_id_with_another_body(bench: Bench) -> None:
    """Is refused, and the first one's outcome stays the only one that did anything."""
    sent = await bench.scene("registrants.approve")
    other = json.loads(json.dumps(sent))
    other["data"]["body"]["sendEmail"] = True
    outcomes = await bench.asked(sent, other)

    assert [(one.type.split(".")[2], (one.data["error"] or {}).get("reason")) for one in outcomes] == [
        ("succeeded", None),
        ("refused", "idReused"),
    ]
    assert outcomes[0].id != outcomes[1].id
    assert await bench.calls("registrants.approve") == 1


async def test_an_id_that_is_used_again_is_refused_once_for_each_body(bench: Bench) -> None:
    """However often it comes, to this process or the next."""
    sent = await bench.scene("meetings.get")
    others = [{**example(operation), "id": sent["id"]} for operation in ("meetings.list", "registrants.list")]
    await bench.asked(sent, others[0], others[1], others[0], others[0])
    later = await bench.restarted(seen=bench.seen)
    outcomes = await later.asked(others[0], others[1], sent)

    assert [(one.type.split(".")[2], one.data["operation"]) for one in outcomes] == [
        ("succeeded", "meetings.get"),
        ("refused", "meetings.list"),
        ("refused", "registrants.list"),
    ]


async def test_what_could_not_be_published_is_not_said_of_another_command(bench: Bench) -> None:
    """The first one's answer waits for the bus; the second one has its id, and must not get it."""
    first = await bench.scene("meetings.get")
    await bench.send(first)
    await bench.take_in()
    (command,) = await bench.commands()
    bench.publisher.refuse = lambda message: message.topic == "outcomes"
    with pytest.raises(CannotStore):
        await bench.controller.execute(bench.place, command, 0)
    bench.publisher.refuse = lambda _: False
    await bench.send({**example("meetings.list"), "id": first["id"]})
    await bench.take_in()
    _, second = await bench.commands()
    assert isinstance(await bench.controller.execute(bench.place, second, 0), Done)
    await bench.execute()
    refused, done = await bench.outcomes()

    assert (refused.data["operation"], refused.data["response"]) == ("meetings.list", None)
    assert refused.data["error"]["reason"] == "idReused"
    assert (done.data["operation"], done.data["response"]["title"]) == ("meetings.get", "Partner day")


async def test_a_refusal_is_said_once(bench: Bench) -> None:
    """A malformed command that is sent twice has one outcome too."""
    sent = example("meetings.get")
    del sent["data"]["parameters"]["meetingId"]

    assert _error(await bench.asked(sent, sent)) == ("refused", "malformed")


async def test_a_meeting_that_webex_does_not_show_is_not_made_twice(bench: Bench) -> None:
    """Looked for for fifteen minutes, then unknown; the meeting is there once, with the command's tag."""
    sent = await bench.scene("meetings.create")
    await bench.fault(operation="createMeeting", dropResponse=1)
    await bench.fault(operation="listMeetings", lagSeconds=86400)
    before = bench.clock()
    kind, data = _only(await bench.asked(sent))
    await bench.webex("DELETE", "/sandbox/faults")
    query = f"integrationTag={mark_of(sent['id'])}&from=2030-01-01&to=2030-02-01"
    shown = (await bench.webex("GET", f"/v1/meetings?{query}"))["items"]

    assert (kind, data["error"]["reason"], data["status"]) == ("failed", "outcomeUnknown", None)
    assert timedelta(minutes=15) <= bench.clock() - before < timedelta(minutes=16)
    assert await bench.calls("meetings.create") == 1
    assert len(shown) == 1


@pytest.mark.parametrize("operation", ["meetings.create", "guests.sponsor"])
async def test_begun_and_never_sent_is_not_run_blindly(bench: Bench, operation: str) -> None:
    """Died between the acked record and the call: nobody can know, so it is looked for and then unknown."""
    sent = await bench.scene(operation)
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    await bench.ledger.record(bench.place, commands.begun(command, now=bench.clock()))
    calls = await bench.calls(operation)
    await bench.execute()

    assert _error(await bench.outcomes()) == ("failed", "outcomeUnknown")
    assert await bench.calls(operation) == calls


@pytest.mark.parametrize("operation", ["meetings.end", "meetings.patch", "registrants.approve", "registrants.delete"])
@pytest.mark.parametrize(
    ("expires", "minutes", "expected"),
    [(None, 14, "succeeded"), (None, 16, "outcomeUnknown"), (1, 2, "outcomeUnknown"), (1, 300, "outcomeUnknown")],
)
async def test_what_was_begun_is_not_written_too_late(
    bench: Bench, operation: str, expires: int | None, minutes: int, expected: str
) -> None:
    """Died between the acked record and the call, and back after its ``expirytime``, or after fifteen minutes."""
    sent = await bench.scene(operation)
    if expires is not None:
        sent["expirytime"] = rfc3339(bench.clock() + timedelta(minutes=expires))
    await bench.begun(sent)
    later = await bench.restarted()
    bench.clock.advance(minutes=minutes)
    await later.execute()
    kind, data = _only(await later.outcomes())

    assert (kind if data["error"] is None else data["error"]["reason"]) == expected
    assert await bench.calls(operation) == (1 if expected == "succeeded" else 0)


async def test_what_was_begun_and_paused_is_not_written_too_late(bench: Bench) -> None:
    """An operator's pause ends a day later."""
    await bench.begun(await bench.scene("registrants.approve"))
    (command,) = await bench.commands()
    await bench.ledger.record(bench.place, [_paused(bench)])
    waiting = await bench.controller.execute(bench.place, command, 0)
    bench.clock.advance(hours=30)
    await bench.ledger.record(bench.place, [msgspec.structs.replace(_paused(bench), value=None)])
    await bench.execute()

    assert isinstance(waiting, Again)
    assert _error(await bench.outcomes()) == ("failed", "outcomeUnknown")
    assert await bench.calls("registrants.approve") == 0


@pytest.mark.parametrize(("minutes", "expected"), [(14, None), (16, "outcomeUnknown")])
async def test_no_links_or_tokens_too_late(bench: Bench, minutes: int, expected: str | None) -> None:
    """Sponsored, and died before the outcome; back after fifteen minutes nothing more is made."""
    sent = await bench.scene("guests.sponsor")
    sent["data"]["body"]["tokens"] = True
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    bench.publisher.refuse = lambda message: message.topic == "outcomes"
    with pytest.raises(CannotStore):
        await bench.controller.execute(bench.place, command, 0)
    later = await bench.restarted()
    bench.clock.advance(minutes=minutes)
    before = await bench.calls("guests.create")
    await later.execute()
    _, data = _only(await later.outcomes())

    assert (data["error"] or {"reason": None})["reason"] == expected
    assert (await bench.calls("guests.create") == before) is (expected is not None)


async def test_an_expirytime_that_passes_while_it_is_looked_at(bench: Bench) -> None:
    """Between the first question and the call: refused, never sent, and nothing is left as begun."""
    sent = await bench.scene("meetings.delete")
    sent["expirytime"] = rfc3339(bench.clock() + timedelta(seconds=30))
    await bench.send(sent)
    await bench.take_in()
    await bench.fault(operation="getMeeting", status=429, retryAfter=40)
    await bench.execute()

    assert _error(await bench.outcomes()) == ("refused", "expired")
    assert await bench.calls("meetings.delete") == 0
    remembered = bench.ledger.command(bench.place, sent["id"])
    assert remembered is not None
    assert remembered.finished is not None


_TAKING_AWAY = sorted(commands.VANISHING)


@pytest.mark.parametrize("operation", _TAKING_AWAY)
async def test_what_never_was_there_is_not_deleted(bench: Bench, operation: str) -> None:
    """Killed between the acked record and the call: that Webex does not show it is no success, Webex is asked."""
    sent = await bench.scene(operation)
    sent["data"]["parameters"]["meetingId"] = "f" * 32
    await bench.begun(sent)
    later = await bench.restarted()
    await later.execute()

    assert _error(await later.outcomes()) == ("failed", "notFound")
    assert await bench.calls(operation) == 1


@pytest.mark.parametrize("operation", _TAKING_AWAY)
async def test_what_was_there_and_is_gone_was_deleted(bench: Bench, operation: str) -> None:
    """Seen before it was begun, and not any more: that was the call, and Webex is not asked again."""
    sent = await bench.scene(operation)
    sent["data"]["parameters"]["meetingId"] = "f" * 32
    await bench.begun(sent, seen=True)
    later = await bench.restarted()
    await later.execute()

    assert _only(await later.outcomes())[0] == "succeeded"
    assert await bench.calls(operation) == 0
    assert [subject for subject in later.ledger.partition(later.place).commands if subject.endswith("-seen")] == []


async def test_whom_a_look_has_shown_nobody_asks_for_again(bench: Bench) -> None:
    """A hundred registrants that the ledger knows cost no hundred calls before they are deleted."""
    sent = await bench.scene("registrants.bulk-delete")
    series, (person,) = sent["data"]["parameters"]["meetingId"], sent["data"]["body"]["registrants"]
    seen = Entry(kind="seen", subject=series, registrant=person["id"], value=Seen(status="pending"))
    await bench.ledger.record(bench.place, [seen])
    await bench.asked(sent)

    assert _only(await bench.outcomes())[0] == "succeeded"
    assert await bench.calls("registrants.get") == 0


async def test_a_delete_goes_on_where_nothing_may_be_read(bench: Bench) -> None:
    """A token that may delete and not read deletes."""
    sent = await bench.scene("meetings.delete")
    await bench.fault(operation="getMeeting", status=403, times=9)

    assert _only(await bench.asked(sent))[0] == "succeeded"


async def test_only_those_who_still_wait_are_approved_again(bench: Bench) -> None:
    """After a lost answer a look shows who is approved already: nobody gets a second mail."""
    sent = await bench.scene("registrants.approve")
    meeting, (first,) = sent["data"]["parameters"]["meetingId"], sent["data"]["body"]["registrants"]
    (second,) = (await bench.webex("POST", "/sandbox/people", {"meetingId": meeting, "count": 1}))["ids"]
    sent["data"]["body"] = {"sendEmail": True, "registrants": [first, {"id": second}]}
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    await bench.fault(operation="batchApproveMeetingRegistrants", status=503)
    result = await bench.controller.execute(bench.place, command, 0)
    await bench.webex("POST", f"/v1/meetings/{meeting}/registrants/approve", {"registrants": [first]})
    bench.clock.advance(seconds=60)
    await bench.execute()
    effects = (await bench.webex("GET", "/sandbox/ledger"))["effects"]

    assert isinstance(result, Again)
    assert _only(await bench.outcomes())[0] == "succeeded"
    assert [(effects[id_]["approved"], effects[id_]["repeated"]) for id_ in (first["id"], second)] == [(1, 0), (1, 0)]


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["meetings.patch", "registrants.register", "meetings.get"])
async def test_busy_webex_is_asked_again(bench: Bench, operation: str) -> None:
    """A 429 says that nothing was done: it is tried again when Webex wants it, and succeeds."""
    sent = await bench.scene(operation)
    await bench.fault(operation=IDS[operation], status=429, retryAfter=1)
    outcomes = await bench.asked(sent)

    assert _only(outcomes)[0] == "succeeded"


async def test_patience_ends_after_a_quarter_of_an_hour(bench: Bench) -> None:
    """Webex is down for longer: failed, with its last answer; nothing of it is left as begun."""
    sent = await bench.scene("meetings.create")
    await bench.fault(operation="createMeeting", status=429, retryAfter=300, times=100)
    before = bench.clock()
    outcomes = await bench.asked(sent)

    assert _error(outcomes) == ("failed", "temporarilyUnavailable")
    assert timedelta(minutes=15) <= bench.clock() - before <= timedelta(minutes=20)


async def test_what_waited_in_our_queue_gets_its_tries(bench: Bench) -> None:
    """Patience counts from the first try: a minute of Webex being busy fails nobody, however late we came to it."""
    sent = await bench.scene("registrants.register")
    await bench.send(sent)
    await bench.take_in()
    bench.clock.advance(minutes=16)
    await bench.fault(operation=IDS["registrants.register"], status=429, retryAfter=30, times=4)
    await bench.execute()

    assert _only(await bench.outcomes())[0] == "succeeded"
    assert bench.waits != []


async def test_an_expirytime_is_absolute(bench: Bench) -> None:
    """... whenever it was tried first."""
    sent = await bench.scene("registrants.register")
    sent["expirytime"] = rfc3339(bench.clock() + timedelta(minutes=17))
    await bench.send(sent)
    await bench.take_in()
    bench.clock.advance(minutes=16)
    await bench.fault(operation=IDS["registrants.register"], status=429, retryAfter=30, times=100)
    await bench.execute()

    assert _error(await bench.outcomes()) == ("failed", "temporarilyUnavailable")
    assert sum(bench.waits) < 300


async def test_expired_before_it_was_taken_in(bench: Bench) -> None:
    """Refused, never sent."""
    sent = {**await bench.scene("meetings.delete"), "expirytime": "2026-01-10T08:59:59Z"}

    assert _error(await bench.asked(sent)) == ("refused", "expired")
    assert await bench.calls("meetings.delete") == 0


async def test_expired_while_it_waited(bench: Bench) -> None:
    """Paused until its time had passed: refused, never sent. Reads go on while writes are stopped."""
    bench.policy = policy.parse("version: 1\npaused: true\ndefault: hold\nrules: []")
    sent = {**await bench.scene("meetings.delete"), "expirytime": "2026-01-10T09:04:00Z"}
    read = {**await bench.scene("meetings.get"), "id": "read"}
    outcomes = await bench.asked(sent, read)

    assert [(one.data["commandId"], one.type.split(".")[2]) for one in outcomes] == [
        (sent["id"], "refused"),
        ("read", "succeeded"),
    ]
    assert outcomes[0].data["error"]["reason"] == "expired"
    assert await bench.calls("meetings.delete") == 0


async def test_paused_commands_go_on_when_they_may(bench: Bench) -> None:
    """An operator's pause holds writes back; afterwards they are carried out."""
    sent = await bench.scene("meetings.delete")
    await bench.ledger.record(bench.place, [_paused(bench)])
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    waiting = await bench.controller.execute(bench.place, command, 0)
    bench.clock.advance(minutes=14)
    await bench.ledger.record(bench.place, [msgspec.structs.replace(_paused(bench), value=None)])
    await bench.execute()

    assert isinstance(waiting, Again)
    assert _only(await bench.outcomes())[0] == "succeeded"


@pytest.mark.parametrize(
    ("kind", "subject", "reason"), [("paused", "default", "paused"), ("observing", "0", "observeOnly")]
)
async def test_what_may_not_be_written_for_long_is_refused(bench: Bench, kind: str, subject: str, reason: str) -> None:
    """After a quarter of an hour, with the reason, and nothing was sent."""
    sent = await bench.scene("meetings.delete")
    stop = Entry(kind=kind, subject=subject, value=Fact(at=bench.clock()))
    await bench.ledger.record(bench.place if kind == "paused" else bench.ledger.place("", 0), [stop])
    await bench.send(sent)
    await bench.take_in()
    before = bench.clock()
    await bench.execute(patience=1000)

    assert _error(await bench.outcomes()) == ("refused", reason)
    assert timedelta(minutes=15) <= bench.clock() - before < timedelta(minutes=16)
    assert await bench.calls("meetings.delete") == 0


async def test_a_pause_after_tries_in_vain_is_no_refusal(bench: Bench) -> None:
    """Webex was asked, so it was sent: failed."""
    sent = await bench.scene("meetings.patch")
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    await bench.fault(operation="patchMeeting", status=429, retryAfter=300, times=100)
    assert isinstance(await bench.controller.execute(bench.place, command, 0), Again)
    await bench.ledger.record(bench.place, [_paused(bench)])
    bench.clock.advance(minutes=16)
    await bench.execute()

    assert _error(await bench.outcomes()) == ("failed", "temporarilyUnavailable")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("expires", [None, 5.5])
@pytest.mark.parametrize("configured", [True, False])
async def test_an_organisation_that_may_not_be_called(
    bench: Bench, begun: bool, expires: float | None, configured: bool
) -> None:
    """Parked, or not configured any more: its commands wait, and then end, with nothing called."""
    sent = await bench.scene("meetings.get" if not begun else "meetings.delete")
    if expires is not None:
        sent["expirytime"] = rfc3339(bench.clock() + timedelta(minutes=expires))
    if begun:
        await bench.begun(sent)
    else:
        await bench.send(sent)
        await bench.take_in()
    if configured:
        bench.unusable.add("default")
    else:
        bench.tenants.pop("default")
    before, calls = bench.clock(), await bench.all_calls()
    await bench.execute()
    waited = timedelta(minutes=expires or 15)

    expected = ("failed", "outcomeUnknown") if begun else ("refused", "organizationNotUsable")
    assert _error(await bench.outcomes()) == expected
    assert bench.waits[0] == 60
    assert waited <= bench.clock() - before < waited + timedelta(seconds=5)
    assert await bench.all_calls() == calls


async def test_a_parked_organisation_that_comes_back(bench: Bench) -> None:
    """Its commands are carried out."""
    sent = await bench.scene("meetings.delete")
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    bench.unusable.add("default")
    waiting = await bench.controller.execute(bench.place, command, 0)
    bench.unusable.clear()
    await bench.execute()

    assert waiting == Again(60)
    assert _only(await bench.outcomes())[0] == "succeeded"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_told_while_it_was_begun(bench: Bench, status: int) -> None:
    """The credential may be no good any more; what was done is looked for later."""
    command = await bench.begun(await bench.scene("meetings.delete"))
    await bench.fault(operation="getMeeting", status=status, times=9)

    assert isinstance(await bench.controller.execute(bench.place, command, 0), Again)
    assert bench.doubted == [bench.place]


def _paused(bench: Bench) -> Entry:
    return Entry(kind="paused", subject="default", value=Fact(at=bench.clock()))


# --- what may be asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["webhooks.create", "webhooks.list", "applications.token"])
async def test_webhooks_and_applications_never(bench: Bench, operation: str) -> None:
    """Not even where everything is allowed."""
    sent = {**example("meetings.list"), "type": f"webex.command.{operation}.v1"}

    assert _error(await bench.asked(sent)) == ("refused", "notAllowed")
    assert await bench.all_calls() == 0


async def test_the_settings_are_asked_again(bench: Bench) -> None:
    """What they do not allow any more is not carried out, though it was taken in; what was begun is not repeated."""
    first, second = await bench.scene("meetings.delete"), await bench.scene("meetings.patch")
    await bench.begun(first)
    await bench.send({**second, "id": "second"})
    await bench.take_in()
    none = await bench.restarted(allowed=Allowed(("meetings.get",)))
    await none.execute()
    said = {
        one.data["commandId"]: (one.type.split(".")[2], one.data["error"]["reason"]) for one in await none.outcomes()
    }

    assert said == {first["id"]: ("failed", "outcomeUnknown"), "second": ("refused", "notAllowed")}
    assert await bench.calls("meetings.delete") == await bench.calls("meetings.patch") == 0


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("webhooks.create", "notAllowed"),
        ("applications.token", "notAllowed"),
        ("meetings.explode", "unknownOperation"),
        ("", "unknownOperation"),
    ],
)
async def test_whatever_arrives_on_work(bench: Bench, operation: str, reason: str, begun: bool) -> None:
    """Somebody wrote it there, or a newer version did: never carried out, and never in the way of the next."""
    forged = Command(
        organization="default", id="x", digest="d", operation=operation, key=KEY, at=rfc3339(bench.clock()), body={}
    )
    if begun:
        await bench.ledger.record(bench.place, commands.begun(forged, now=bench.clock()))
    result = await bench.controller.execute(bench.place, forged, 0)

    assert isinstance(result, Done)
    assert _error(await bench.outcomes()) == (("failed", "outcomeUnknown") if begun else ("refused", reason))
    assert await bench.all_calls() == 0


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (Allowed(("*",), hosts=("host@example.com",)), "succeeded"),
        (Allowed(("*",), hosts=("*@EXAMPLE.com",)), "succeeded"),
        (Allowed(("*",), hosts=("other@example.com",)), "hostNotAllowed"),
        (Allowed(("*",), sites=("*.webex.com",)), "succeeded"),
        (Allowed(("*",), sites=("elsewhere.webex.com",)), "siteNotAllowed"),
    ],
)
async def test_hosts_and_sites(bench: Bench, allowed: Allowed, expected: str) -> None:
    """Whose meeting it is Webex says, not the command: it is read first, and nothing is sent where it is out of bounds."""
    sent = await bench.scene("meetings.delete")
    narrow = await bench.restarted(allowed=allowed)
    kind, data = _only(await narrow.asked(sent))

    assert (kind if data["error"] is None else data["error"]["reason"]) == expected
    assert await bench.calls("meetings.delete") == (1 if expected == "succeeded" else 0)


@pytest.mark.parametrize(
    ("operation", "change", "expected"),
    [
        ("meetings.create", {}, "hostNotAllowed"),
        ("meetings.create", {"hostEmail": "other@example.com"}, "hostNotAllowed"),
        ("meetings.create", {"hostEmail": "host@example.com"}, "succeeded"),
        ("meetings.join", {"meetingId": None, "meetingNumber": "123"}, "hostNotAllowed"),
        ("meetings.join", {"meetingNumber": "123"}, "hostNotAllowed"),
        ("meetings.join", {"webLink": "https://x.webex.com/m/1"}, "hostNotAllowed"),
        ("meetings.join", {}, "succeeded"),
    ],
)
async def test_what_names_no_meeting_has_to_name_its_host(
    bench: Bench, operation: str, change: dict[str, Any], expected: str
) -> None:
    """Where hosts are narrowed. A number may lead to anybody's meeting."""
    sent = await bench.scene(operation)
    body = {**sent["data"]["body"], **change}
    sent["data"]["body"] = {name: value for name, value in body.items() if value is not None}
    narrow = await bench.restarted(allowed=Allowed(("*",), hosts=("host@example.com",)))
    kind, data = _only(await narrow.asked(sent))

    assert (kind if data["error"] is None else data["error"]["reason"]) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [("second", "second"), (None, None), ("third", None), ("8" * 8 + "-8888" * 3 + "-" + "8" * 12, "second")],
)
async def test_which_organisation(bench: Bench, named: str | None, expected: str | None) -> None:
    """Where there are several, the command says which, by its id or its name; otherwise it is refused."""
    two = Organizations(
        (
            Organization("default", "7" * 8 + "-7777" * 3 + "-" + "7" * 12),
            Organization("second", "8" * 8 + "-8888" * 3 + "-" + "8" * 12),
        )
    )
    several = await bench.restarted(organizations=two)
    sent = example("meetings.list")
    sent["data"] |= {"organization": named} if named else {}
    await several.send(sent)
    await several.take_in()
    (command,) = await several.commands()

    assert (command.organization, command.refusal) == (
        (expected, "") if expected else ("default", "unknownOrganization")
    )


@pytest.mark.parametrize("named", ["emea", "EMEA", "8" * 8 + "-8888" * 3 + "-" + "8" * 12])
async def test_an_organisation_by_its_name_in_the_settings(bench: Bench, named: str) -> None:
    """As the operator wrote it there, and as the schema promises; its outcome says whose it is."""
    second = "8" * 8 + "-8888" * 3 + "-" + "8" * 12
    environ = {"TOKEN": "x", "ORGANIZATION_ID": "7" * 8 + "-7777" * 3 + "-" + "7" * 12}
    environ |= {"ORGANIZATIONS__EMEA__ID": second, "ORGANIZATIONS__EMEA__TOKEN": "y"}
    known = settings.load({f"{settings.PREFIX}WEBEX__{name}": value for name, value in environ.items()}).webex.known
    several = await bench.restarted(organizations=known)
    sent = example("meetings.list")
    sent["data"]["organization"] = named
    await several.send(sent)
    await several.take_in()
    (command,) = await several.commands()
    done = commands.outcome(command, commands.refused("expired", ""), now=bench.clock(), receiver="test")

    assert (command.organization, command.refusal) == (second, "")
    assert organization_id(done.source.removeprefix("/webex/orgs/")) == second


# --- what nobody can read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"id": 7}',
        b'{"id": ""}',
        b"[" * 100_000,
        b'{"id":"%s"}' % (b"x" * 2000),
    ],
)
async def test_without_an_id_it_is_a_dead_letter(bench: Bench, value: bytes) -> None:
    """Nobody could be answered; it is kept, with the reason, and the next one is taken in."""
    outcomes = await bench.asked(value, await bench.scene("meetings.get"))
    (letter,) = await bench.outcomes("dead-letters")

    assert letter.data["reason"] == "unreadableCommand"
    assert _only(outcomes)[0] == "succeeded"
    assert bench.observer.letters == ["unreadableCommand"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "webex.meeting.started.v1"}, "malformed"),
        ({"type": None}, "malformed"),
        ({"type": "webex.command.meetings.get.v2"}, "malformed"),
        ({"type": "webex.command.meetings.explode.v1"}, "unknownOperation"),
        ({"specversion": "0.3"}, "malformed"),
        ({"source": ""}, "malformed"),
        ({"data": None}, "malformed"),
        ({"data": {"parameters": []}}, "malformed"),
        ({"data": {"parameters": {"meetingId": 7}}}, "malformed"),
        ({"data": {"parameters": {"meetingId": "a/b"}}}, "malformed"),
        ({"data": {"parameters": {"meetingId": ".."}}}, "malformed"),
        ({"expirytime": "tomorrow"}, "malformed"),
        ({"expirytime": "2030-01-10T09:00:00"}, "malformed"),
        ({"datacontenttype": "text/xml"}, "malformed"),
    ],
)
async def test_no_cloudevent_of_ours(bench: Bench, change: dict[str, Any], reason: str) -> None:
    """With an id it has an outcome, whatever else is wrong; Webex is not asked."""
    outcomes = await bench.asked({**example("meetings.get"), **change})

    assert _error(outcomes) == ("refused", reason)
    assert await bench.all_calls() == 0


async def test_while_the_bus_takes_nothing_nothing_is_finished(bench: Bench) -> None:
    """The offset stays where it is until the command is durable on ``work``; then it is handed over once."""
    refused: list[Message] = []

    def refuse(message: Message) -> bool:
        refused.append(message)
        return len(refused) <= 2

    bench.publisher.refuse = refuse
    positions: list[int | None] = []
    publish = bench.publisher.publish

    async def watched(messages: Any) -> None:
        positions.append(await bench.journal.committed("processors-commands", "commands"))
        await publish(messages)

    bench.publisher.publish = watched  # type: ignore[method-assign]
    await bench.send(await bench.scene("meetings.get"))
    await bench.take_in()

    assert positions == [0, 0, 0]
    assert len(await bench.commands()) == 1


async def test_what_cannot_be_handed_over_holds_up_its_own_organisation_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each organisation has a partition of ``work`` of its own; its commands keep their order."""
    monkeypatch.setattr("service.controllers.intake.AGAIN", 0.02)
    bench.organizations = Organizations(known=(Organization("one", name="one"), Organization("two", name="two")))
    stuck = True
    bench.publisher.refuse = lambda message: stuck and message.key == "one"
    scene = await bench.scene("meetings.get")

    def sent(id_: str, organization: str) -> dict[str, Any]:
        return {**scene, "id": id_, "data": {**scene["data"], "organization": organization}}

    await bench.send(sent("1", "one"), sent("2", "two"), sent("3", "one"), sent("4", "two"))
    taking_in = asyncio.create_task(bench.take_in())
    async with asyncio.timeout(8):
        while [one.id for one in await bench.commands()] != ["2", "4"]:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert await bench.journal.committed("processors-commands", "commands") == 0
        stuck = False
        await taking_in
    assert [one.id for one in await bench.commands()] == ["2", "4", "1", "3"]


async def test_taking_in_beats(bench: Bench) -> None:
    """So that whoever looks from outside sees it hang."""
    await bench.send(await bench.scene("meetings.get"))
    await bench.take_in()
    assert set(bench.beats) == {LOOP}


async def test_a_bug_in_checking_a_command_stops_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else that record would end every process that meets it, one after another."""
    usual = commands.take_in

    def take_in(event: Any, **others: Any) -> Command:
        return usual({**event, "id": 1 / (event["id"] != "poison") and event["id"]}, **others)

    monkeypatch.setattr(commands, "take_in", take_in)
    sent = await bench.scene("meetings.get")
    await bench.send({**sent, "id": "poison"}, sent)
    await bench.take_in()
    assert [one.id for one in await bench.commands()] == [sent["id"]]
    assert bench.observer.letters == ["unexpected"]


async def test_a_command_too_large_for_work(bench: Bench) -> None:
    """What fits on one topic may not fit on another: refused, and those beside it are carried out."""
    sent, other = await bench.scene("meetings.get"), {**await bench.scene("meetings.patch"), "id": "large"}
    other["data"]["body"]["agenda"] = "x" * 5000
    await bench.send(other, sent)

    class Small(PickyPublisher):
        async def publish(self, messages: Any) -> None:
            if any(len(one.value or b"") > 4000 for one in messages):
                raise RecordRefused("too large")
            await super().publish(messages)

    bench.publisher = Small(JournalPublisher(bench.journal), lambda _: False)
    await bench.take_in()
    await bench.execute()
    outcomes = {one.data["commandId"]: one for one in await bench.outcomes()}

    assert outcomes["large"].data["error"]["message"] == "the command is too large"
    assert outcomes[sent["id"]].type == "webex.command.succeeded.v1"


async def test_none_overtakes_where_one_is_too_large(bench: Bench) -> None:
    """Where the bus fails between two of them, what comes later waits: the order of one meeting stays."""
    first, large, last = [await bench.scene("meetings.patch") for _ in range(3)]
    large["data"]["body"]["agenda"] = "x" * 5000
    await bench.send({**first, "id": "1"}, {**large, "id": "2"}, {**last, "id": "3"})

    failures = [True, False, True]

    class Failing(PickyPublisher):
        async def publish(self, messages: Any) -> None:
            if any(len(one.value or b"") > 4000 for one in messages):
                raise RecordRefused("too large")
            if failures and failures.pop(0):
                raise CannotStore
            await super().publish(messages)

    bench.publisher = Failing(JournalPublisher(bench.journal), lambda _: False)
    await bench.take_in()

    assert [(one.id, bool(one.refusal)) for one in await bench.commands()] == [("1", False), ("2", True), ("3", False)]


async def test_large_commands_are_handed_over_in_parts(bench: Bench) -> None:
    """No bus takes a hundred of them at once, however often it is asked: they would wait for ever."""
    sent = await bench.scene("meetings.patch")
    sent["data"]["body"]["agenda"] = "x" * 30_000
    sizes: list[int] = []

    class Full(PickyPublisher):
        async def publish(self, messages: Any) -> None:
            sizes.append(sum(len(one.value or b"") for one in messages))
            if sizes[-1] > 1024 * 1024:
                raise CannotStore
            await super().publish(messages)

    bench.publisher = Full(JournalPublisher(bench.journal), lambda _: False)
    await bench.send(*({**sent, "id": f"{number:02}"} for number in range(60)))
    async with asyncio.timeout(20):
        await bench.take_in()

    assert [one.id for one in await bench.commands()] == [f"{number:02}" for number in range(60)]
    assert 1 < len(sizes) < 10


async def test_a_record_key_that_no_outcome_could_repeat(bench: Bench) -> None:
    """Refused before anything is asked of Webex; the outcome has a hash of it as its key, and the next command goes on."""
    sent = await bench.scene("meetings.delete")
    await bench.send(sent, key="k" * 400_000)
    await bench.send({**sent, "id": "next"}, key="k" * 1024)
    await bench.take_in()
    await bench.execute()
    refused, done = await bench.outcomes()

    assert (refused.data["error"]["reason"], len(refused.partitionkey)) == ("malformed", 32)
    assert (done.type.split(".")[2], done.partitionkey) == ("succeeded", "k" * 1024)
    assert await bench.calls("meetings.delete") == 1


async def test_an_outcome_that_fits_whatever_else_does_not(bench: Bench) -> None:
    """An older version took it in with its key: carried out once, and said with a hash of the key."""
    sent = await bench.scene("meetings.delete")
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()
    publish = bench.publisher.publish

    async def small(messages: Any) -> None:
        if any(len(one.key) + len(one.value or b"") > 5000 for one in messages):
            raise RecordRefused("too large")
        await publish(messages)

    bench.publisher.publish = small  # type: ignore[method-assign]
    long = msgspec.structs.replace(command, key="k" * 5000)
    results = [await bench.controller.execute(bench.place, long, 0) for _ in range(2)]
    (outcome,) = await bench.outcomes()

    assert results == [Done(), Done()]
    assert (outcome.type.split(".")[2], outcome.data["error"], len(outcome.partitionkey)) == ("succeeded", None, 32)
    assert await bench.calls("meetings.delete") == 1


@pytest.mark.parametrize("body", [{}, None])
async def test_a_sender_that_always_sends_a_body(bench: Bench, body: Any) -> None:
    """With nothing in it that is fine, and Webex gets none."""
    sent = await bench.scene("meetings.delete")
    sent["data"]["body"] = body

    assert _only(await bench.asked(sent))[0] == "succeeded"


async def test_an_answer_too_large_for_a_record(bench: Bench) -> None:
    """It succeeded, and says so; the response is left out."""
    sent = await bench.scene("meetings.get")
    await bench.send(sent)
    await bench.take_in()
    publish = bench.publisher.publish

    async def small(messages: Any) -> None:
        if any(b"Partner day" in (one.value or b"") for one in messages):
            raise RecordRefused("too large")
        await publish(messages)

    bench.publisher.publish = small  # type: ignore[method-assign]
    await bench.execute()
    kind, data = _only(await bench.outcomes())

    assert (kind, data["status"], data["response"]) == ("succeeded", 200, None)
    assert data["error"]["reason"] == "responseTooLarge"


# --- registrants, and what is remembered of them ----------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "unsettled"), [("approve", True), ("reject", True), ("delete", False)])
async def test_what_is_seen_afterwards_is_put_down_to_the_command(bench: Bench, verb: str, unsettled: bool) -> None:
    """The intent was acked before the call, and names the command."""
    sent = await bench.scene(f"registrants.{verb}")
    await bench.asked(sent)
    series = sent["data"]["parameters"]["meetingId"]
    (memory,) = bench.ledger.series(bench.place, series).registrants.values()

    assert memory.intent is not None
    assert (memory.intent.verb, memory.intent.by, memory.intent.rule) == (verb, "command", sent["id"])
    assert memory.intent.unsettled is unsettled


async def test_a_cancel_takes_people_out_of_the_policys_hands(bench: Bench) -> None:
    """As a host's does."""
    sent = await bench.scene("registrants.cancel")
    await bench.asked(sent)
    (memory,) = bench.ledger.series(bench.place, sent["data"]["parameters"]["meetingId"]).registrants.values()

    assert memory.human
    assert memory.intent is not None
    assert memory.intent.verb == "cancel"


async def test_who_was_registered_by_a_command(bench: Bench) -> None:
    """Is remembered under the id that Webex gave."""
    sent = await bench.scene("registrants.bulk-insert")
    (outcome,) = await bench.asked(sent)
    memories = bench.ledger.series(bench.place, sent["data"]["parameters"]["meetingId"]).registrants

    assert set(memories) == {each["id"] for each in outcome.data["response"]["items"]}
    assert {memory.intent.verb for memory in memories.values() if memory.intent} == {"register"}


async def test_a_refused_approval_leaves_what_was_meant_before(bench: Bench) -> None:
    """The policy's own intent is not replaced by one that had no effect."""
    sent = await bench.scene("registrants.approve")
    series, (person,) = sent["data"]["parameters"]["meetingId"], sent["data"]["body"]["registrants"]
    ours = Intent(verb="reject", rule="r", reason="", notify=False, policy="v", at=bench.clock())
    await bench.ledger.record(bench.place, [Entry(kind="intent", subject=series, registrant=person["id"], value=ours)])
    await bench.fault(operation="batchApproveMeetingRegistrants", status=400)
    await bench.asked(sent)

    assert bench.ledger.series(bench.place, series).registrants[person["id"]].intent == ours


# --- guests, and the topic restricted ---------------------------------------------------------------------------------


async def test_links_go_to_restricted_only(bench: Bench) -> None:
    """Where it is switched on; the outcome beside it has none."""
    open_ = await bench.restarted(restricted=True)
    outcomes = await open_.asked(await open_.scene("guests.sponsor"))
    (whole,) = await open_.outcomes("restricted")
    response = _only(outcomes)[1]["response"]

    assert whole.type == "webex.command.answered.v1"
    assert whole.data["response"]["host"]["startLink"].startswith("http")
    assert whole.data["response"]["guests"][0]["accessToken"]
    assert response["meetingId"] == whole.data["response"]["meetingId"]
    assert response["host"] == {
        "email": "doctor@example.org",
        "displayName": "Dr. Ada",
        "expiration": whole.data["response"]["host"]["expiration"],
        "expiresIn": whole.data["response"]["host"]["expiresIn"],
    }
    assert whole.data["commandId"] == outcomes[0].data["commandId"]


async def test_nothing_restricted_without_the_setting(bench: Bench) -> None:
    """The topic stays empty."""
    await bench.asked(await bench.scene("guests.sponsor"))

    assert await bench.outcomes("restricted") == []


async def test_a_full_licence_refuses(bench: Bench) -> None:
    """Two at the same time are what it allows; the third is refused, and not made."""
    sent = await bench.scene("guests.sponsor")
    outcomes = await bench.asked(*({**sent, "id": f"visit-{n}"} for n in range(3)))

    assert [one.type.split(".")[2] for one in outcomes] == ["succeeded", "succeeded", "refused"]
    assert outcomes[2].data["error"]["reason"] == "licenceFull"
    assert await bench.calls("guests.sponsor") == 2


async def test_a_pause_stops_sponsoring(bench: Bench) -> None:
    """No meeting is made."""
    sent = await bench.scene("guests.sponsor")
    await bench.ledger.record(bench.place, [_paused(bench)])
    await bench.send(sent)
    await bench.take_in()
    (command,) = await bench.commands()

    assert isinstance(await bench.controller.execute(bench.place, command, 0), Again)
    assert await bench.calls("guests.sponsor") == 0


# --- what is printed --------------------------------------------------------------------------------------------------


async def test_nothing_personal_is_logged(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither what was asked for nor what was answered, not even the command's own id."""
    sent = {**await bench.scene("registrants.register"), "id": "for bob@example.org"}
    await bench.asked(sent, {**sent, "type": "webex.command.bob.lee.v1", "id": "2"})
    printed = capsys.readouterr().out

    assert "command.finished" in printed
    assert not any(word in printed.lower() for word in ("bob", "lee"))
