"""The meetings controller on a real journal, with Webex at its port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import Ledger, Place
from service.controllers.meetings import Changed, MeetingsController
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.task import Task
from service.core import event, policy
from service.core.errors import (
    CannotStore,
    NotOwner,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.event import CloudEvent
from service.core.ledger import Entry, Fact
from service.core.meetings import Meeting
from service.core.message import Message
from service.core.policy import Policy
from tests.fakes import CountingObserver, FakeWebex, PickyPublisher

SERIES = "6" * 32
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def rules(*given: str, top: str = "") -> Policy:
    """A policy with these meeting rules, each the inside of a flow mapping without its name."""
    lines = "".join(f"  - {{name: rule-{n}, when: 'true', {each}}}\n" for n, each in enumerate(given, 1))
    return policy.parse(f"version: 1\n{top}\n" + (f"meetingRules:\n{lines}" if given else ""))


RECORD = "set: {enabledAutoRecordMeeting: true}"
TITLE = "set: {title: House style}"


class Office(FakeWebex):
    """Webex, where people edit meetings while we work: ``meanwhile`` happens before the call of that name and number."""

    def __init__(self) -> None:
        super().__init__(series=SERIES)
        self.fields = {"id": SERIES, "title": "Partner day", "state": "active", "start": "2026-03-05T09:00:00Z"}
        self.meanwhile: dict[tuple[str, int], Callable[[], object]] = {}
        self.lost = False

    async def _called(self, operation: str, arguments: Any) -> WebexError | None:
        self.meanwhile.pop((operation, len(self.made(operation)) + 1), lambda: None)()
        return await super()._called(operation, arguments)

    async def change_meeting(
        self,
        meeting_id: str,
        method: Literal["patch", "put"],
        fields: Mapping[str, Any],
        *,
        send_email: bool,
        host_email: str = "",
    ) -> None:
        """While ``lost``, what may have happened did not."""
        before = self.fields
        try:
            await super().change_meeting(meeting_id, method, fields, send_email=send_email, host_email=host_email)
        finally:
            if self.lost:
                self.fields = before

    @property
    def patches(self) -> list[dict[str, Any]]:
        """The bodies of all changes."""
        return [body for _, body, _ in self.made("change_meeting")]


@dataclass
class Desk:
    """One meetings controller with everything that it works with; :meth:`restarted` gives the next process."""

    journal: Journal
    webex: Office
    publisher: PickyPublisher
    policy: Policy
    now: datetime = START
    observer: CountingObserver = field(default_factory=CountingObserver)

    def __post_init__(self) -> None:
        self.ledger = Ledger(reader=JournalReader(self.journal), publisher=self.publisher)
        ownership = Ownership(self.ledger, instance="one", unconfirmed=lambda: 0.0, now=self.clock)
        self.controller = MeetingsController(
            webex=lambda task: self.webex,
            ledger=self.ledger,
            permission=Permission(ledger=self.ledger, ownership=ownership, policy=lambda: self.policy),
            policy=lambda: self.policy,
            observer=self.observer,
            receiver="test",
            now=self.clock,
        )

    def clock(self) -> datetime:
        """The desk's own time."""
        return self.now

    async def restarted(self) -> Desk:
        """A new process on the same journal, its ledger restored."""
        desk = Desk(self.journal, self.webex, self.publisher, self.policy, self.now, self.observer)
        await desk.ledger.restore(0)
        return desk

    @property
    def place(self) -> Place:
        """Where the only organisation stands now."""
        return self.ledger.place("default", 0)

    async def look(self, *, minutes: float = 0) -> Changed:
        """Look, so many minutes later."""
        self.now += timedelta(minutes=minutes)
        shown = Meeting(id=SERIES, title=self.webex.fields["title"], fields=dict(self.webex.fields))
        return await self.controller.look(Task(place=self.place, series=SERIES, org_id="org"), shown)

    async def outcomes(self) -> list[CloudEvent]:
        """Every event on ``outcomes``."""
        return [event.decode(each.value or b"") for each in await self.records("outcomes")]

    async def records(self, topic: str) -> list[Message]:
        """Every record of a topic."""
        _, following = await self.journal.bounds(topic)
        found = await self.journal.read(topic, 0, following) if following else []
        return [each.message for each in found]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller and one meeting without registration."""
    async with await Journal.open(tmp_path) as journal:
        publisher = PickyPublisher(JournalPublisher(journal), lambda _: False)
        made = Desk(journal, Office(), publisher, rules(RECORD))
        await made.ledger.restore(0)
        yield made


# --- the smallest change ----------------------------------------------------------------------------------------------


async def test_a_rule_changes_a_meeting_and_says_so(desk: Desk) -> None:
    """One PATCH with what differs and no e-mail; the outcome has before and after."""
    desk.policy = rules("set: {enabledAutoRecordMeeting: true, title: Partner day}, reason: We record")
    changed = await desk.look()
    assert desk.webex.made("change_meeting") == [("patch", {"enabledAutoRecordMeeting": True}, False)]
    assert changed.meeting.fields["enabledAutoRecordMeeting"] is True
    [told] = await desk.outcomes()
    assert (told.type, told.subject, told.partitionkey) == ("webex.meeting.changed.v1", f"meetings/{SERIES}", SERIES)
    assert told.data == {
        "meetingId": SERIES,
        "rule": "rule-1",
        "reason": "We record",
        "before": {"enabledAutoRecordMeeting": None},
        "after": {"enabledAutoRecordMeeting": True},
        "policy": desk.policy.version,
        "notify": False,
    }
    assert desk.observer.changes == ["changed"]


async def test_at_rest_nothing_is_asked_written_or_recorded(desk: Desk) -> None:
    """However often an echo comes, and after a restart."""
    await desk.look()
    calls, records = len(desk.webex.calls), len(await desk.records("ledger"))
    for _ in range(20):
        assert (await desk.look(minutes=7)).again is None
    desk = await desk.restarted()
    await desk.look()
    assert (len(desk.webex.calls), len(await desk.records("ledger"))) == (calls, records)


async def test_without_rules_nothing_happens(desk: Desk) -> None:
    """No call, no record."""
    desk.policy = rules()
    assert (await desk.look()).again is None
    assert (desk.webex.calls, await desk.records("ledger")) == ([], [])


async def test_the_intent_is_acked_before_the_call(desk: Desk) -> None:
    """Where it cannot be, nothing is written."""
    desk.publisher.refuse = lambda message: message.key.startswith("rules/")
    with pytest.raises(CannotStore):
        await desk.look()
    assert desk.webex.patches == []


async def test_a_meeting_without_registration_is_remembered_too(desk: Desk) -> None:
    """So that its record goes when it is over."""
    await desk.look()
    known = desk.ledger.series(desk.place, SERIES).meeting
    assert known is not None
    assert (known.registration, known.start) == (False, datetime(2026, 3, 5, 9, tzinfo=UTC))


async def test_calls_of_different_kinds_are_made_one_by_one(desk: Desk) -> None:
    """With e-mails and without, and a PUT of all that can be set; each has an event."""
    desk.webex.fields |= {"password": "pw-4711", "agenda": "Old"}
    desk.policy = rules(
        RECORD, "set: {title: T}, notify: true", "set: {agenda: New}, method: put", "set: {publicMeeting: false}"
    )
    await desk.look()
    assert desk.webex.made("change_meeting") == [
        ("patch", {"enabledAutoRecordMeeting": True, "publicMeeting": False}, False),
        ("patch", {"title": "T"}, True),
        (
            "put",
            {
                "title": "T",
                "agenda": "New",
                "password": "pw-4711",
                "start": "2026-03-05T09:00:00Z",
                "enabledAutoRecordMeeting": True,
                "publicMeeting": False,
            },
            False,
        ),
    ]
    assert [told.data["rule"] for told in await desk.outcomes()] == ["rule-1", "rule-4", "rule-2", "rule-3"]


# --- people -----------------------------------------------------------------------------------------------------------


def _edit(desk: Desk, **fields: Any) -> Callable[[], None]:
    return lambda: desk.webex.fields.update(fields)


@pytest.mark.parametrize("enforce", ["once", "always"])
async def test_an_edit_between_read_and_write_survives(desk: Desk, enforce: str) -> None:
    """A13: the person's field is left alone, ours is written; ``always`` comes back to it, ``once`` never."""
    desk.policy = rules(f"set: {{title: Ours, enabledAutoRecordMeeting: true}}, enforce: {enforce}")
    desk.webex.meanwhile["get_meeting", 1] = _edit(desk, title="Theirs", agenda="Theirs too")
    await desk.look()
    assert desk.webex.patches[0] == {"enabledAutoRecordMeeting": True}
    assert desk.observer.changes[0] == "yielded"
    for minute in range(10):
        await desk.look(minutes=minute)
    assert desk.webex.fields["agenda"] == "Theirs too"
    assert desk.webex.fields["title"] == ("Theirs" if enforce == "once" else "Ours")


async def test_an_edit_in_the_same_object_survives(desk: Desk) -> None:
    """What is sent is what was there a moment ago, and our field."""
    desk.webex.fields["meetingOptions"] = {"enabledChat": True}
    desk.policy = rules("set: {meetingOptions: {enabledChat: false}}")
    desk.webex.meanwhile["get_meeting", 1] = _edit(desk, meetingOptions={"enabledChat": True, "enabledNote": False})
    await desk.look()
    assert desk.webex.fields["meetingOptions"] == {"enabledChat": False, "enabledNote": False}


async def test_a_put_has_no_stale_copy(desk: Desk) -> None:
    """A13 again: what a person changed a moment ago goes back as they left it."""
    desk.policy = rules("set: {publicMeeting: false}, method: put")
    desk.webex.meanwhile["get_meeting", 1] = _edit(desk, title="Theirs", agenda="Theirs too")
    await desk.look()
    assert (desk.webex.fields["title"], desk.webex.fields["agenda"]) == ("Theirs", "Theirs too")


async def test_a_rule_that_does_not_match_any_more_writes_nothing(desk: Desk) -> None:
    """The person's edit took the meeting out of its scope."""
    desk.policy = policy.parse(
        "version: 1\nmeetingRules:\n"
        "  - {name: r, when: 'meeting.title == \"Partner day\"', set: {enabledAutoRecordMeeting: true}}\n"
    )
    desk.webex.meanwhile["get_meeting", 1] = _edit(desk, title="Theirs")
    await desk.look()
    assert desk.webex.patches == []
    record = desk.ledger.series(desk.place, SERIES).rules
    assert record is None or record.writes == {}


async def test_once_lets_a_later_change_win_for_good(desk: Desk) -> None:
    """After restarts too, until the rule is another one."""
    await desk.look()
    desk.webex.fields["enabledAutoRecordMeeting"] = False
    desk = await desk.restarted()
    for _ in range(20):
        await desk.look(minutes=90)
    assert (len(desk.webex.patches), desk.webex.fields["enabledAutoRecordMeeting"]) == (1, False)
    desk.policy = rules("set: {enabledAutoRecordMeeting: true, publicMeeting: false}")
    await desk.look()
    assert desk.webex.patches[1] == {"enabledAutoRecordMeeting": True, "publicMeeting": False}


async def test_a_fight_parks_the_meeting(desk: Desk) -> None:
    """Three writes within an hour, then an alert and no more for a day."""
    desk.policy = rules(RECORD + ", enforce: always")
    with structlog.testing.capture_logs() as lines:
        for _ in range(20):
            await desk.look(minutes=2)
            desk.webex.fields["enabledAutoRecordMeeting"] = False
    assert len(desk.webex.patches) == 3
    assert [line["log_level"] for line in lines if line["event"] == "meeting.parked"] == ["error"]
    assert desk.observer.changes == ["changed", "changed", "changed", "parked"]
    desk = await desk.restarted()
    await desk.look(minutes=23 * 60)
    assert len(desk.webex.patches) == 3
    await desk.look(minutes=60)
    assert len(desk.webex.patches) == 4


# --- errors -----------------------------------------------------------------------------------------------------------

_LOST = WebexUnavailable("no answer", maybe_done=True)


async def test_a_lost_answer_is_settled_by_reading_back(desk: Desk) -> None:
    """It happened: no error, one PATCH, one event."""
    desk.webex.failures["change_meeting"] = [_LOST]
    await desk.look()
    await desk.look()
    assert (len(desk.webex.patches), len(await desk.outcomes())) == (1, 1)


async def test_what_did_not_happen_is_tried_again(desk: Desk) -> None:
    """It is the worker's to wait; an outage does not count as a fight."""
    desk.webex.lost = True
    for _ in range(5):
        desk.webex.failures["change_meeting"] = [_LOST]
        with pytest.raises(WebexUnavailable):
            await desk.look(minutes=1)
    desk.webex.lost = False
    await desk.look()
    assert (len(desk.webex.patches), len(await desk.outcomes())) == (6, 1)
    assert desk.observer.changes == ["changed"]


async def test_a_process_that_ends_after_the_call_is_continued(desk: Desk) -> None:
    """The next one finds it done, does not repeat it, and tells of it."""
    desk.webex.meanwhile["get_meeting", 2] = lambda: setattr(desk.publisher, "refuse", lambda _: True)
    with pytest.raises(CannotStore):
        await desk.look()
    desk.publisher.refuse = lambda _: False
    desk = await desk.restarted()
    await desk.look(minutes=3)
    await desk.look()
    assert len(desk.webex.patches) == 1
    assert [told.data["after"] for told in await desk.outcomes()] == [{"enabledAutoRecordMeeting": True}]


async def test_what_webex_refuses_waits_longer_each_time(desk: Desk) -> None:
    """And is no error: the registrants have their turn. Another state of the meeting is worth a try at once."""
    refusal = WebexRejected("meetings.patch: Webex answered 400", status=400, tracking_id="T1")
    desk.webex.failures["change_meeting"] = [refusal] * 4
    assert [(await desk.look()).again, (await desk.look()).again] == [60.0, 60.0]
    assert (await desk.look(minutes=1)).again == 120.0
    assert len(desk.webex.patches) == 2
    desk.webex.fields["state"] = "scheduled"
    assert (await desk.look()).again == 60.0
    assert len(desk.webex.patches) == 3
    assert await desk.outcomes() == []
    desk = await desk.restarted()
    desk.webex.failures.clear()
    await desk.look()
    assert desk.webex.fields["enabledAutoRecordMeeting"] is True


async def test_a_rule_that_webex_never_takes_costs_little(desk: Desk) -> None:
    """A day of looks, a minute apart: a dozen calls."""
    desk.webex.failures["change_meeting"] = [WebexRejected("no", status=400)] * 2000
    for _ in range(24 * 60):
        await desk.look(minutes=1)
    assert 8 <= len(desk.webex.patches) <= 14
    assert "parked" not in desk.observer.changes


async def test_a_refused_call_does_not_hold_up_another(desk: Desk) -> None:
    """The PATCH is refused, the form is not."""
    desk.policy = rules(RECORD, "set: {registration: {requireJobTitle: true}}")
    desk.webex.failures["change_meeting"] = [WebexUnauthorized("no", status=403)]
    assert (await desk.look()).again == 60.0
    assert desk.webex.made("update_registration") == [{"requireJobTitle": True}]


@pytest.mark.parametrize(
    "error",
    [
        WebexUnauthorized("no", status=401),
        WebexThrottled("slowly", status=429, retry_after=3.0),
        WebexUnavailable("down"),
    ],
)
async def test_errors_of_the_organisation_are_the_workers(desk: Desk, error: WebexError) -> None:
    """They concern more than this meeting."""
    desk.webex.failures["change_meeting"] = [error]
    with pytest.raises(type(error)):
        await desk.look()


async def test_a_read_back_that_fails_is_no_refusal(desk: Desk) -> None:
    """The write was accepted; the next look finds it."""
    desk.webex.failures["get_meeting"] = [None, WebexNotFound("lag", status=404)]
    with pytest.raises(WebexNotFound):
        await desk.look()
    await desk.look()
    assert (len(desk.webex.patches), len(await desk.outcomes())) == (1, 1)


# --- when nothing may be written --------------------------------------------------------------------------------------


async def test_a_meeting_in_progress_waits_a_minute(desk: Desk) -> None:
    """Webex refuses every change then."""
    desk.webex.fields["state"] = "inProgress"
    assert ((await desk.look()).again, desk.webex.calls) == (60.0, [])


async def test_a_meeting_that_begins_between_read_and_write_waits(desk: Desk) -> None:
    """The re-read shows it; the next look is in a minute."""
    desk.webex.meanwhile["get_meeting", 1] = _edit(desk, state="inProgress")
    assert ((await desk.look()).again, desk.webex.patches) == (60.0, [])


async def test_while_an_operator_stops_writes_nothing_is_written(desk: Desk) -> None:
    """By the file, by an order, or because the ledger was found empty; it is no error, and goes on afterwards."""
    stopped = Fact(at=START)
    desk.policy = rules(RECORD, top="paused: true")
    assert (await desk.look()).again == 300.0
    desk.policy = rules(RECORD)
    for entry in (
        Entry(kind="paused", subject="default", value=stopped),
        Entry(kind="observing", subject="0", value=stopped),
    ):
        desk.ledger.remember(desk.place, [entry])
        assert (await desk.look()).again == 300.0
        desk.ledger.remember(desk.place, [Entry(kind=entry.kind, subject=entry.subject, value=None)])
    assert desk.webex.calls == []
    await desk.look()
    assert len(desk.webex.patches) == 1


async def test_a_pause_between_intent_and_call_is_obeyed(desk: Desk) -> None:
    """The last question is asked right before the call."""
    paused = rules(RECORD, top="paused: true")
    desk.webex.meanwhile["get_meeting", 1] = lambda: setattr(desk, "policy", paused)
    assert ((await desk.look()).again, desk.webex.patches) == (300.0, [])


async def test_who_lost_the_partition_writes_nothing(desk: Desk) -> None:
    """Not even what was begun."""
    desk.webex.meanwhile["get_meeting", 1] = lambda: desk.ledger.forget(0)
    with pytest.raises(NotOwner):
        await desk.look()
    assert desk.webex.patches == []


async def test_shadow_mode_tells_once_and_writes_nothing(desk: Desk) -> None:
    """After restarts too. Without it, the rule acts."""
    desk.policy = rules(RECORD, top="shadow: true")
    for _ in range(3):
        await desk.look(minutes=90)
        desk = await desk.restarted()
    assert desk.webex.calls == []
    assert [told.type for told in await desk.outcomes()] == ["webex.meeting.proposed.v1"]
    desk.policy = rules(RECORD)
    await desk.look()
    assert [told.type for told in await desk.outcomes()][1:] == ["webex.meeting.changed.v1"]


# --- the registration form --------------------------------------------------------------------------------------------


async def test_a_form_is_replaced_with_all_that_it_had(desk: Desk) -> None:
    """Its questions and its capacity, whichever answer shows them."""
    question = {"question": "Diet?", "type": "singleLineTextBox"}
    desk.webex.fields["registration"] = {"maxRegisterNum": 50, "customizedQuestions": [{"id": 1, **question}]}
    desk.policy = rules("set: {registration: {requireJobTitle: true}, title: T}")
    await desk.look()
    assert desk.webex.made("update_registration") == [
        {"maxRegisterNum": 50, "requireJobTitle": True, "customizedQuestions": [question]}
    ]
    assert desk.webex.patches == [{"title": "T"}]
    told = [each.data["after"] for each in await desk.outcomes()]
    assert sorted(map(str, told)) == ["{'registration.requireJobTitle': True}", "{'title': 'T'}"]


async def test_a_form_is_switched_on(desk: Desk) -> None:
    """Where there was none."""
    desk.policy = rules("set: {registration: {requireJobTitle: true}}")
    assert (await desk.look()).meeting.has_registration


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_secret_leaves_by_an_event_a_record_or_a_log_line(desk: Desk) -> None:
    """Neither ours nor the meeting's."""
    desk.webex.fields |= {"password": "old-pw-4711", "hostKey": "815815", "agenda": "The password is old-pw-4711"}
    desk.policy = rules("set: {password: new-pw-4712, agenda: Bring your own}, enforce: always")
    with structlog.testing.capture_logs() as lines:
        await desk.look()
        desk.webex.failures["change_meeting"] = [WebexRejected("no", status=400)]
        desk.webex.fields["password"] = "old-pw-4711"
        await desk.look()
    assert desk.webex.patches[0] == {"password": "new-pw-4712", "agenda": "Bring your own"}
    everything = str(lines) + str([*await desk.records("outcomes"), *await desk.records("ledger")])
    for secret in ("old-pw-4711", "new-pw-4712", "815815"):
        assert secret not in everything
    [told] = await desk.outcomes()
    assert told.data["after"] == {"password": "***", "agenda": "Bring your own"}
    assert told.data["before"] == {"password": "***", "agenda": "The password is ***"}
