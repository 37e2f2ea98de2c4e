"""Stand-ins at the ports, for tests that are about something else. Where the real thing is quick, tests use that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from msgspec import structs

from service.bus.outgoing import Outgoing
from service.bus.record_size import MAX_BATCH_BYTES, batched_size
from service.core.errors import (
    CannotStore,
    RecordRefused,
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexUnauthorized,
)
from service.core.meetings import Meeting
from service.core.message import Message, Received
from service.core.registrants import Registrant


class RecordingPublisher:
    """A publisher without a bus: keeps what it is given, raises ``error`` instead where there is one, waits for ``gate``."""

    def __init__(self, *, error: Exception | None = None, gate: asyncio.Event | None = None) -> None:
        self.batches: list[tuple[Message, ...]] = []
        self.error = error
        self.gate = gate

    async def publish(self, messages: Sequence[Message]) -> None:
        """Keep ``messages`` as one batch."""
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(tuple(messages))

    def offer(self, messages: Sequence[Message], done: Callable[[Exception | None], None]) -> asyncio.Task[None]:
        """The same, as a call."""
        return asyncio.create_task(self._offered(tuple(messages), done))

    async def _offered(self, messages: tuple[Message, ...], done: Callable[[Exception | None], None]) -> None:
        try:
            await self.publish(messages)
        except Exception as error:  # noqa: BLE001 - whoever offered is told
            done(error)
        else:
            done(None)

    def withdraw(self, offer: object) -> None:
        """Forget it."""
        assert isinstance(offer, asyncio.Task)
        offer.cancel()

    def flush(self) -> None:
        """Nothing waits for more."""


class Turn:
    """A turn of the loop, which ends when it is told to: what was to be done ``soon`` is done then."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def end(self) -> None:
        """What is asked for meanwhile is for the next one."""
        due, self.due = self.due, []
        for callback in due:
            callback()


@dataclass(eq=False)
class GivenBatch:
    """What a FakeSender was given and has not answered."""

    topic: str
    partition: int
    records: Sequence[Outgoing]
    answer: asyncio.Future[None]


class FakeSender:
    """The publisher's BatchSender: a Kafka that answers what it is given when it is told to, or at once while ``answering``.

    ``log``: what is written, by topic and partition; ``given``: every batch, in order. ``counts`` of topics that are not in
    it are not known. A record that ``refuse`` says yes to makes its batch be refused.
    """

    def __init__(
        self, *, healthy: bool = True, answering: bool = False, counts: Mapping[str, int] | None = None
    ) -> None:
        self.healthy = healthy
        self.answering = answering
        self.counts = dict(counts if counts is not None else {"work": 1, "dead-letters": 1})
        self.limit = MAX_BATCH_BYTES
        self.occupied = False
        self.occupied_topics = set[str]()
        self.refuse: Callable[[Message], bool] = lambda _: False
        self.log: dict[tuple[str, int], list[Outgoing]] = {}
        self.given: list[GivenBatch] = []
        self.waiting: list[GivenBatch] = []
        self.flushed: list[int] = []

    def partitions(self, topic: str) -> int | None:
        """How many it has."""
        return self.counts.get(topic)

    def largest(self, topic: str) -> int:
        """The same for all."""
        return self.limit

    def busy(self, topic: str, partition: int) -> bool:
        """As it is told."""
        return self.occupied or topic in self.occupied_topics

    def flush(self) -> None:
        """Remember how many batches were given until then."""
        self.flushed.append(len(self.given))

    async def start(self) -> None:
        """Nothing to do."""

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Keep it."""
        given = GivenBatch(topic, partition, tuple(batch), asyncio.get_running_loop().create_future())
        self.given.append(given)
        self.waiting.append(given)
        if self.answering:
            asyncio.get_running_loop().call_soon(self.acknowledge)
        return given.answer

    def acknowledge(self, count: int | None = None) -> None:
        """Write and answer the oldest ones; all where there is no ``count``. What was cancelled is forgotten."""
        for given in self.waiting[:count]:
            self.waiting.remove(given)
            if given.answer.done():
                continue
            if problem := self._problem(given.records):
                given.answer.set_exception(RecordRefused(problem))
            else:
                self.write(given)
                given.answer.set_result(None)

    def write(self, given: GivenBatch) -> None:
        """Write it and say nothing: the answer is lost, and it is sent once more."""
        if not self._problem(given.records):
            self.log.setdefault((given.topic, given.partition), []).extend(given.records)

    def _problem(self, records: Sequence[Outgoing]) -> str:
        size = sum(batched_size(record.message) for record in records)
        if size > self.limit:
            return f"{size} bytes"
        return "refused" if any(self.refuse(record.message) for record in records) else ""

    def recover(self) -> None:
        """Healthy, and answering from now on, and also what waits."""
        self.healthy = self.answering = True
        self.acknowledge()

    def values(self, topic: str = "work", partition: int = 0) -> list[bytes | None]:
        """Of the records that are written there."""
        return [record.message.value for record in self.log.get((topic, partition), ())]

    async def stop(self, timeout: float = 5.0) -> None:
        """Let go of what waits."""
        for given in self.waiting:
            given.answer.cancel()


class FakeWebex:
    """The controllers' Webex port over a dictionary; ``failures`` come first, one for each call, None lets it through."""

    def __init__(self, *, series: str, title: str = "Partner day", registration: dict[str, Any] | None = None) -> None:
        self.fields: dict[str, Any] = {"id": series, "title": title, "registration": registration or {}}
        self.others: list[dict[str, Any]] = []
        self.people: dict[str, Registrant] = {}
        self.failures: dict[str, list[WebexError | None]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.lagging = False
        self.unlisted: set[str] = set()
        self.refusing: dict[str, int] = {}
        self.gates: dict[str, asyncio.Event] = {}

    def register(self, id_: str, *, email: str = "", at: datetime, status: str = "pending") -> None:
        """Somebody registers."""
        email = email or f"{id_}@example.org"
        fields = {"id": id_, "status": status, "email": email, "registrationTime": at.isoformat()}
        self.people[id_] = Registrant(id=id_, status=status, email=email, registered=at, fields=fields)

    def set_status(self, id_: str, status: str) -> None:
        """A host, or an accepted call, changes a status."""
        one = self.people[id_]
        self.people[id_] = structs.replace(one, status=status, fields={**one.fields, "status": status})

    def update(self, id_: str, **fields: Any) -> None:
        """Somebody changes what they registered with."""
        one = self.people[id_]
        self.people[id_] = structs.replace(one, fields={**one.fields, **fields})

    def delete(self, id_: str) -> None:
        """A host deletes somebody."""
        del self.people[id_]

    def hold(self, operation: str) -> asyncio.Event:
        """Calls of one operation wait for this event."""
        return self.gates.setdefault(operation, asyncio.Event())

    def made(self, operation: str) -> list[Any]:
        """The arguments of the calls of one operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    async def _called(self, operation: str, arguments: Any) -> WebexError | None:
        self.calls.append((operation, arguments))
        if operation in self.gates:
            await self.gates[operation].wait()
        scripted = self.failures.get(operation)
        failure = scripted.pop(0) if scripted else None
        if failure is not None and not failure.maybe_done:
            raise failure
        return failure

    async def get_meeting(self, meeting_id: str, *, host_email: str = "") -> Meeting:
        """One meeting."""
        await self._called("get_meeting", meeting_id)
        return Meeting(id=meeting_id, title=self.fields["title"], fields=dict(self.fields))

    async def list_registrants(
        self, meeting_id: str, *, since: datetime | None, now: datetime, host_email: str = ""
    ) -> list[Registrant]:
        """Those who registered after ``since``, without the ``unlisted``: a list may lose a page."""
        await self._called("list_registrants", since)
        shown = [one for one in self.people.values() if one.id not in self.unlisted]
        return [one for one in shown if since is None or (one.registered and one.registered >= since)]

    async def get_registrant(self, meeting_id: str, registrant_id: str, *, host_email: str = "") -> Registrant:
        """One of them."""
        await self._called("get_registrant", registrant_id)
        if registrant_id not in self.people:
            raise WebexNotFound("registrants.get: Webex answered 404", status=404)
        return self.people[registrant_id]

    async def list_meetings(self, *, since: datetime, until: datetime, host_email: str = "") -> list[Meeting]:
        """The one meeting, and the ``others``."""
        await self._called("list_meetings", host_email)
        shown = [self.fields, *self.others]
        return [Meeting(id=each["id"], title=each["title"], fields=dict(each)) for each in shown]

    async def change_meeting(
        self,
        meeting_id: str,
        method: Literal["patch", "put"],
        fields: Mapping[str, Any],
        *,
        send_email: bool,
        host_email: str = "",
    ) -> None:
        """Change its fields; a failure that may have happened did happen."""
        failure = await self._called("change_meeting", (method, dict(fields), send_email))
        self.fields = {**self.fields, **fields}
        if failure is not None:
            raise failure

    async def get_registration(self, meeting_id: str, *, host_email: str = "") -> Mapping[str, Any]:
        """The form."""
        await self._called("get_registration", meeting_id)
        if not self.fields.get("registration"):
            raise WebexNotFound("registration.get: Webex answered 404", status=404)
        return dict(self.fields["registration"])

    async def update_registration(self, meeting_id: str, form: Mapping[str, Any], *, host_email: str = "") -> None:
        """Another form."""
        await self._called("update_registration", dict(form))
        self.fields = {**self.fields, "registration": dict(form)}

    async def query_registrants(
        self, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
    ) -> list[Registrant]:
        """Those with these addresses; while ``lagging``, as they were."""
        await self._called("query_registrants", list(emails))
        shown = [one for one in self.people.values() if one.email in emails]
        return [structs.replace(one, status="pending") for one in shown] if self.lagging else shown

    async def change_status(
        self, meeting_id: str, verb: str, ids: Sequence[str], *, send_email: bool, host_email: str = ""
    ) -> None:
        """Approve or reject; a failure that may have happened did happen. Nobody, where one is ``refusing``, by status."""
        failure = await self._called("change_status", (verb, list(ids), send_email))
        for status in [self.refusing[id_] for id_ in ids if id_ in self.refusing]:
            kind = {404: WebexNotFound, 409: WebexConflict, 412: WebexConflict}.get(status, WebexRejected)
            raise kind(f"registrants.{verb}: Webex answered {status}", status=status)
        for id_ in ids:
            self.set_status(id_, {"approve": "approved", "reject": "rejected"}[verb])
        if failure is not None:
            raise failure


class CountingObserver:
    """The controllers' Observer port: keeps what it is told."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.decisions: dict[str, int] = {}
        self.parked = 0
        self.found: dict[str, int] = {}
        self.letters: list[str] = []
        self.waiting_letters: list[int] = []
        self.commands: list[tuple[str, str]] = []
        self.changes: list[str] = []
        self.stopped: dict[str, int] = {}
        self.durations: list[tuple[str, float]] = []

    def looked(self, result: str) -> None:
        """A look ended."""
        self.looks.append(result)

    def handled(self, what: str, seconds: float) -> None:
        """What was asked for has ended."""
        self.durations.append((what, seconds))

    def decided(self, outcome: str, count: int) -> None:
        """So many were decided."""
        self.decisions[outcome] = self.decisions.get(outcome, 0) + count

    def restored(self, partition: int, entries: int) -> None:
        """Not counted."""

    def queue_depth(self, keys: int) -> None:
        """Not counted."""

    def organizations_parked(self, organizations: int) -> None:
        """So many are parked."""
        self.parked = organizations

    def keys_parked(self, keys: int) -> None:
        """Not counted."""

    def swept_up(self, what: str, count: int) -> None:
        """A sweep found so many that no webhook had told of."""
        self.found[what] = self.found.get(what, 0) + count

    def letter_written(self, reason: str) -> None:
        """A record went to the dead letters."""
        self.letters.append(reason)

    def letters_waiting(self, topic: str, letters: int) -> None:
        """So many cannot be written for now."""
        self.waiting_letters.append(letters)

    def command_finished(self, operation: str, outcome: str) -> None:
        """A command has its outcome."""
        self.commands.append((operation, outcome))

    def meeting_changed(self, result: str) -> None:
        """What a meeting rule came to."""
        self.changes.append(result)

    def writes_stopped(self, reason: str, organizations: int) -> None:
        """For so many organisations nothing is written."""
        self.stopped[reason] = organizations


class PickyPublisher:
    """A Publisher in front of another one: refuses what ``refuse`` says, as a bus that cannot store, or with ``error``."""

    def __init__(
        self, publisher: Any, refuse: Callable[[Message], bool], *, error: type[Exception] = CannotStore
    ) -> None:
        self._publisher, self.refuse, self._error = publisher, refuse, error

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish all, or refuse all."""
        if any(map(self.refuse, messages)):
            raise self._error
        await self._publisher.publish(messages)


class FakeGuestToGuest:
    """The sponsor's Webex port over a dictionary, with a clock that ``sleep`` moves.

    ``failures`` come first, one for each call; one that may have happened did happen. While ``lagging``, lists show nothing.
    """

    def __init__(self, now: datetime) -> None:
        self.time, self.lagging = now, False
        self.meetings: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, list[WebexError | None]] = {}
        self.calls: list[tuple[str, Any]] = []

    def now(self) -> datetime:
        """The moment."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Time passes, and everybody else has a turn."""
        self.time += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    def made(self, operation: str) -> list[Any]:
        """The arguments of the calls of one operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    def start(self, series: str) -> dict[str, Any]:
        """The meeting begins; what a webhook would tell."""
        host = {"hostUserId": "app", "hostEmail": "app@example.com"}
        instance = {"id": f"{series}_I_{len(self.instances)}", "state": "inProgress", **host}
        self.instances[instance["id"]] = instance
        return {**instance, "start": self.time.isoformat()}

    def end(self, data: dict[str, Any]) -> dict[str, Any]:
        """The meeting ends; what a webhook would tell."""
        self.instances[data["id"]] = {**self.instances[data["id"]], "state": "ended"}
        return {**data, "state": "ended", "end": self.time.isoformat()}

    async def _called(self, operation: str, arguments: Any) -> WebexError | None:
        self.calls.append((operation, arguments))
        await asyncio.sleep(0)
        scripted = self.failures.get(operation)
        failure = scripted.pop(0) if scripted else None
        if failure is not None and not failure.maybe_done:
            raise failure
        return failure

    async def create_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """One more meeting, hosted by the Service App."""
        failure = await self._called("create_meeting", body)
        id_ = f"{len(self.meetings) + 1:032x}"
        self.meetings[id_] = {**body, "id": id_, "state": "active", "hostUserId": "app", "hostEmail": "app@example.com"}
        if failure is not None:
            raise failure
        return self.meetings[id_]

    async def list_meetings(self, query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """By state for instances, by tag and time for series."""
        await self._called("list_meetings", query)
        if query["meetingType"] == "meeting":
            return [one for one in self.instances.values() if one["state"] == query["state"] and not self.lagging]
        tagged = [one for one in self.meetings.values() if query["integrationTag"] in one["integrationTags"]]
        since, until = query["from"], query["to"]  # all of one form, so that text compares like time
        return [one for one in tagged if one["start"] < until and one["end"] > since and not self.lagging]

    async def show_meeting(self, meeting_id: str) -> Mapping[str, Any]:
        """An instance."""
        await self._called("show_meeting", meeting_id)
        if meeting_id not in self.instances:
            raise WebexNotFound("meetings.get: Webex answered 404", status=404)
        return self.instances[meeting_id]

    async def join_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Links, with a start link for everybody, as for a host's own token."""
        await self._effective("join_meeting", body)
        expires = self.time + timedelta(minutes=body["expirationMinutes"])
        links = {kind: f"https://example.webex.com/{kind}/{len(self.calls)}" for kind in ("joinLink", "startLink")}
        return {**links, "expiration": expires.isoformat()}

    async def create_guest(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A token."""
        await self._effective("create_guest", body)
        return {"id": body["subject"], "accessToken": f"token-{body['subject']}", "expiresIn": 64799}

    async def _effective(self, operation: str, arguments: Any) -> None:
        failure = await self._called(operation, arguments)
        if failure is not None:
            raise failure


class FakeTenant:
    """The controllers' Tenant port: accepted while ``lives``; ``failures`` come first, one for each probe."""

    def __init__(self, api: FakeWebex) -> None:
        self.api = api
        self.lives = True
        self.status = 401
        self.renewable = False
        self.credential = "first"
        self.failures: list[WebexError] = []
        self.probes = 0
        self.renewals = 0

    @property
    def sweeping(self) -> FakeWebex:
        """The same."""
        return self.api

    @property
    def commanding(self) -> Any:
        """Commands are tested against the simulated Webex."""
        raise NotImplementedError

    @property
    def sponsoring(self) -> Any:
        """So is sponsoring."""
        raise NotImplementedError

    async def probe(self) -> None:
        """One cheap read."""
        self.probes += 1
        if self.failures:
            raise self.failures.pop(0)
        if not self.lives:
            raise WebexUnauthorized("no", status=self.status)

    async def renew(self) -> None:
        """A new token, where the organisation gives its consent."""
        self.renewals += 1
        if not self.renewable:
            raise WebexUnauthorized("no consent", status=403)
        self.lives = True

    def version(self) -> str:
        """The credential's."""
        return self.credential


class ListedMeetings:
    """The discovery's Webex port: which meetings each host ("" is the token's own user) has, as lists show them.

    ``failures`` come first for a host, one for each call; ``refusals`` come every time. ``gate`` holds every list back.
    """

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.failures: dict[str, list[Exception]] = {}
        self.refusals: dict[str, WebexError] = {}
        self.calls: list[str] = []
        self.windows: set[tuple[datetime, datetime]] = set()
        self.gate: asyncio.Event | None = None

    def schedule(self, series: str, *, host: str, lists: Sequence[str] | None = None, **fields: Any) -> dict[str, Any]:
        """One more meeting of ``host``, in the lists of these; the object may be changed."""
        meeting = {"id": series, "title": "Partner day", "hostEmail": host, **fields}
        for each in [host] if lists is None else lists:
            self.lists.setdefault(each, []).append(meeting)
        return meeting

    async def list_meetings(self, *, since: datetime, until: datetime, host_email: str = "") -> list[Meeting]:
        """Those of one host."""
        self.calls.append(host_email)
        self.windows.add((since, until))
        if self.gate is not None:
            await self.gate.wait()
        if host_email in self.refusals:
            raise self.refusals[host_email]
        if self.failures.get(host_email):
            raise self.failures[host_email].pop(0)
        shown = self.lists.get(host_email, ())
        return [Meeting(id=each["id"], title=each["title"], fields=dict(each)) for each in shown]


class EmptyReader:
    """A LedgerReader of a topic without a record."""

    async def read(self, topic: str, partition: int) -> AsyncIterator[Received]:
        """Nothing."""
        for record in tuple[Received, ...]():
            yield record
