"""What follows from looking at one registrant, as a table that an operator can read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import registrants
from service.core.ledger import Entry, Fact, Intent, Memory, PartitionMemory, Seen
from service.core.registrants import Registrant, Review, Verdict, review

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIES = "5" * 32
VERSION = "policy-1"


def registrant(status: str, id_: str = "r1") -> Registrant:
    fields = {"id": id_, "status": status, "email": "guest@example.com"}
    return Registrant(id=id_, status=status, email="guest@example.com", registered=NOW, fields=fields)


def intent(verb: str = "approve", *, age: float = 0, unsettled: bool = True) -> Intent:
    at = NOW - timedelta(minutes=age)
    return Intent(
        verb=verb, rule="partners-in", reason="A partner", notify=True, policy=VERSION, at=at, unsettled=unsettled
    )


def look(status: str, memory: Memory, *, outcome: str = "approve", version: str = VERSION) -> Review:
    verdict = Verdict(outcome=outcome, rule="partners-in", reason="A partner", notify=True, policy=version)
    return review(registrant(status), memory, series=SERIES, now=NOW, decide=lambda _: verdict, version=version)


def published(found: Review) -> list[str]:
    return [f"{fact.what} by {fact.decision.get('by', '-')}" for fact in found.observations]


SEEN_PENDING = Seen(status="pending", facts=1)
SEEN_HELD = Seen(status="pending", held=VERSION, facts=2)
SEEN_APPROVED = Seen(status="approved", facts=2)


@pytest.mark.parametrize(
    ("status", "memory", "outcome", "facts", "acts", "waits"),
    [
        pytest.param("pending", Memory(), "approve", ["registered by -"], True, False, id="a newcomer is acted on"),
        pytest.param("pending", Memory(), "hold", ["registered by -", "held by policy"], False, False, id="a newcomer is held"),
        pytest.param("pending", Memory(seen=SEEN_HELD), "approve", [], False, False, id="held stays held under one version"),
        pytest.param("pending", Memory(seen=SEEN_PENDING), "reject", [], True, False, id="a known pending one is acted on"),
        pytest.param("pending", Memory(seen=SEEN_PENDING, intent=intent(age=14)), "approve", [], False, True,
                     id="after a 204 pending means nothing for 15 minutes"),
        pytest.param("pending", Memory(seen=SEEN_PENDING, intent=intent(age=16)), "approve", [], True, False,
                     id="after 15 minutes the next try is allowed"),
        pytest.param("pending", Memory(seen=SEEN_PENDING, intent=intent(unsettled=False)), "approve", [], True, False,
                     id="an intent whose call was not confirmed may be tried again once a list says pending"),
        pytest.param("pending", Memory(seen=SEEN_APPROVED, approved=True), "approve", ["cancelled by host"], False, False,
                     id="whoever was seen approved and is pending was put back by a person"),
        pytest.param("pending", Memory(seen=SEEN_PENDING, approved=True, human=True), "approve", [], False, False,
                     id="a person's word stays"),
        pytest.param("pending", Memory(seen=Seen(status="rejected", facts=2), rejected=True), "approve",
                     ["cancelled by host"], False, False, id="a rejected one put back is a person's word too"),
        pytest.param("approved", Memory(seen=SEEN_PENDING, intent=intent()), "approve", ["approved by policy"], False, False,
                     id="our approval is confirmed by the list"),
        pytest.param("approved", Memory(seen=SEEN_PENDING), "approve", ["approved by host"], False, False,
                     id="an approval that we did not ask for is the host's"),
        pytest.param("rejected", Memory(seen=SEEN_PENDING, intent=intent()), "approve", ["rejected by host"], False, False,
                     id="a rejection of whom we approve is the host's"),
        pytest.param("approved", Memory(seen=SEEN_APPROVED, approved=True), "reject", [], False, False,
                     id="nothing new, nothing done"),
        pytest.param("rejected", Memory(seen=SEEN_APPROVED, approved=True), "approve", ["rejected by host"], False, False,
                     id="a host who rejects an approved one is reported, not overruled"),
        pytest.param("approved", Memory(seen=SEEN_PENDING, approved=True, human=True, intent=intent()), "approve",
                     ["approved by host"], False, False, id="a host who approves again is the one who did it"),
        pytest.param("waitlisted", Memory(seen=SEEN_PENDING), "approve", [], False, False,
                     id="a status that we do not know is left alone"),
    ],
)  # fmt: skip
def test_review(status: str, memory: Memory, outcome: str, facts: list[str], *, acts: bool, waits: bool) -> None:
    """One look at one registrant gives these facts, and acts or waits as told."""
    found = look(status, memory, outcome=outcome)

    assert published(found) == facts
    assert (found.action is not None) == acts
    assert found.waiting == waits


def test_held_is_decided_again_under_a_new_policy() -> None:
    """A new version of the policy decides again about those whom the old one held."""
    assert look("pending", Memory(seen=SEEN_HELD), version="policy-2").action is not None


def remember(memory: Memory, found: Review) -> Memory:
    partition = PartitionMemory()
    partition.of(SERIES).registrants["r1"] = memory
    for entry in found.entries:
        partition.apply(entry)
    return partition.of(SERIES).registrants["r1"]


@given(
    st.lists(st.sampled_from(["pending", "approved", "rejected", "somethingNew"]), max_size=12),
    st.sampled_from(["approve", "reject", "hold"]),
)
def test_a_second_look_at_the_same_state_publishes_nothing(statuses: list[str], outcome: str) -> None:
    """Whatever happened before, looking again at an unchanged registrant finds no new fact and writes nothing."""
    memory = Memory()
    for status in statuses:
        memory = remember(memory, look(status, memory, outcome=outcome))
        again = look(status, memory, outcome=outcome)

        assert (again.observations, again.entries) == ((), ())


@given(st.lists(st.sampled_from(["pending", "approved", "rejected"]), max_size=15))
def test_nobody_who_was_seen_decided_is_ever_acted_on(statuses: list[str]) -> None:
    """Once a list has shown somebody approved or rejected, no sequence of changes makes us act on them again."""
    memory, decided = Memory(), False
    for status in statuses:
        found = look(status, memory)
        memory = remember(memory, found)
        decided = decided or status != "pending"

        assert not (decided and found.action)


@given(st.lists(st.sampled_from(["pending", "approved", "rejected"]), min_size=1, max_size=15))
def test_every_fact_has_an_id_of_its_own(statuses: list[str]) -> None:
    """Facts of one registrant never share an id, and the same fact found twice has the same one."""
    memory, ids = Memory(), []
    for status in statuses:
        found = look(status, memory, outcome="hold")
        ids += [event_id(fact) for fact in found.observations]

        assert [event_id(fact) for fact in look(status, memory, outcome="hold").observations] == ids[
            len(ids) - len(found.observations) :
        ]
        memory = remember(memory, found)

    assert len(set(ids)) == len(ids)


def event_id(fact: Any) -> str:
    return registrants.to_event(fact, series=SERIES, org_id="org", now=NOW, receiver="here", traceparent=None).id


def test_the_event_of_a_fact_says_who_decided() -> None:
    """A fact's event has Webex's fields, the meeting, and the decision where it was ours."""
    (fact,) = look("approved", Memory(seen=SEEN_PENDING, intent=intent())).observations
    event = registrants.to_event(fact, series=SERIES, org_id="org", now=NOW, receiver="here", traceparent=None)

    assert (event.type, event.subject, event.partitionkey, event.origin) == (
        "webex.registrant.approved.v1",
        f"meetings/{SERIES}",
        SERIES,
        "sweep",
    )
    assert event.data == {
        "id": "r1",
        "status": "approved",
        "email": "guest@example.com",
        "meetingId": SERIES,
        "decision": {"by": "policy", "rule": "partners-in", "reason": "A partner", "policy": VERSION},
    }


def test_batches_hold_a_hundred_of_each_verb_and_notify() -> None:
    """One write is made for each started hundred of each verb and notify, and nobody is left out or named twice."""
    actions = [
        registrants.Action(
            registrant=registrant("pending", str(n)),
            verdict=Verdict(outcome=verb, rule="", reason="", notify=notify, policy=""),
        )
        for n, (verb, notify) in enumerate([("approve", True)] * 250 + [("reject", True)] * 100 + [("approve", False)])
    ]

    made = list(registrants.batches(actions))

    assert [(verb, notify, len(batch)) for verb, notify, batch in made] == [
        ("approve", True, 100),
        ("approve", True, 100),
        ("approve", True, 50),
        ("reject", True, 100),
        ("approve", False, 1),
    ]
    assert sorted(int(one.registrant.id) for _, _, batch in made for one in batch) == list(range(351))


def test_statuses_prefer_what_the_list_shows() -> None:
    """Counts take the list's word first and our memory's for those whom the list does not show."""
    memories = {"r1": Memory(seen=SEEN_APPROVED), "r2": Memory(seen=SEEN_APPROVED), "r3": Memory()}

    assert registrants.statuses([registrant("pending", "r1")], memories) == {"pending": 1, "approved": 1}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Memory(), False),
        (Memory(intent=intent(age=20)), True),
        (Memory(intent=intent(age=31)), False),
        (Memory(intent=intent(age=1), approved=True), False),
        (Memory(intent=intent(age=1), human=True), False),
    ],
)
def test_unfinished(memory: Memory, *, expected: bool) -> None:
    """A call of the last half hour whose effect no list has shown is unfinished."""
    assert registrants.unfinished(memory, now=NOW) == expected


def test_facts_are_entries_of_their_own() -> None:
    """That somebody was seen approved is a key of its own, beside what was published."""
    found = look("approved", Memory(seen=SEEN_PENDING, intent=intent()))

    assert list(found.entries) == [
        Entry(kind="approved", subject=SERIES, registrant="r1", value=Fact(at=NOW)),
        Entry(kind="seen", subject=SERIES, registrant="r1", value=Seen(status="approved", facts=2)),
    ]
