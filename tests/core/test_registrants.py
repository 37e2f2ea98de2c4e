"""What follows from looking at one registrant, as a table that an operator can read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import registrants
from service.core.ledger import Entry, Fact, Intent, Memory, PartitionMemory, Seen
from service.core.registrants import Registrant, Review, Stance, Verdict, fingerprint, review

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIES = "5" * 32
VERSION = "policy-1"


def registrant(status: str, id_: str = "r1", **fields: str) -> Registrant:
    fields = {"id": id_, "status": status, "email": "guest@example.com", **fields}
    return Registrant(id=id_, status=status, email="guest@example.com", registered=NOW, fields=fields)


def intent(verb: str = "approve", *, age: float = 0, unsettled: bool = True, by: str = "policy") -> Intent:
    at = NOW - timedelta(minutes=age)
    return Intent(
        verb=verb,
        rule="partners-in",
        reason="A partner",
        notify=True,
        policy=VERSION,
        at=at,
        unsettled=unsettled,
        by=by,
    )


def look(
    status: str,
    memory: Memory,
    *,
    outcome: str = "approve",
    version: str = VERSION,
    shadow: bool = False,
    **fields: str,
) -> Review:
    verdict = Verdict(outcome=outcome, rule="partners-in", reason="A partner", notify=True, policy=version)
    stance = Stance(version=version, shadow=shadow)
    return review(registrant(status, **fields), memory, series=SERIES, now=NOW, decide=lambda _: verdict, stance=stance)


def published(found: Review) -> list[str]:
    return [f"{fact.what} by {fact.decision.get('by', '-')}" for fact in found.observations]


PRINT = fingerprint({"id": "r1", "email": "guest@example.com"})
SEEN_PENDING = Seen(status="pending", facts=1)
SEEN_WAITING = Seen(status="pending", held=VERSION, waiting=True, facts=2)
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
        pytest.param("pending", Memory(), "waitlist", ["registered by -", "waitlisted by policy"], False, False,
                     id="a newcomer without a place waits"),
        pytest.param("pending", Memory(seen=SEEN_WAITING), "waitlist", [], False, False, id="who waits is told so once"),
        pytest.param("pending", Memory(seen=SEEN_WAITING), "approve", [], True, False,
                     id="who waits is decided again under the same version"),
        pytest.param("pending", Memory(seen=SEEN_WAITING), "hold", ["held by policy"], False, False,
                     id="who waited may be held"),
        pytest.param("pending", Memory(seen=SEEN_WAITING, intent=intent(age=1)), "approve", [], False, True,
                     id="whoever was promoted a moment ago is not promoted again"),
        pytest.param("pending", Memory(seen=SEEN_WAITING, human=True), "approve", [], False, False,
                     id="a person's word outweighs a free place"),
        pytest.param("approved", Memory(seen=SEEN_PENDING, intent=intent(by="command")), "reject", ["approved by command"],
                     False, False, id="a command's approval is the command's"),
        pytest.param("approved", Memory(seen=SEEN_PENDING, approved=True, human=True, intent=intent(by="command")), "reject",
                     ["approved by command"], False, False, id="a command may approve whom a person put back"),
        pytest.param("pending", Memory(seen=SEEN_APPROVED, approved=True, human=True, intent=intent("cancel", by="command")),
                     "approve", ["cancelled by command"], False, False, id="a command's cancellation is the command's"),
        pytest.param("pending", Memory(seen=SEEN_APPROVED, approved=True, human=True), "approve", ["cancelled by host"],
                     False, False, id="a host who cancels once more is reported once more"),
        pytest.param("pending", Memory(intent=intent("register", by="command")), "hold",
                     ["registered by command", "held by policy"], False, False, id="a command may register somebody"),
        pytest.param("pending", Memory(seen=Seen(status="deleted", facts=3), human=True), "approve", ["registered by -"],
                     False, False, id="who comes back after a deletion is registered again, and a person's word stays"),
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
    st.sampled_from(["approve", "reject", "hold", "waitlist"]),
)
def test_a_second_look_at_the_same_state_publishes_nothing(statuses: list[str], outcome: str) -> None:
    """Whatever happened before, looking again at an unchanged registrant finds no new fact and writes nothing."""
    memory = Memory()
    for status in statuses:
        memory = remember(memory, look(status, memory, outcome=outcome))
        again = look(status, memory, outcome=outcome)

        assert (again.observations, again.entries) == ((), ())


@given(
    st.lists(st.tuples(st.sampled_from(["pending", "approved", "rejected"]), st.sampled_from("ab")), max_size=15),
    st.sampled_from(["approve", "hold", "waitlist"]),
)
def test_nobody_who_was_seen_decided_is_ever_acted_on(steps: list[tuple[str, str]], outcome: str) -> None:
    """Once a list has shown somebody approved or rejected, no sequence of changes makes us act on them again."""
    memory, decided = Memory(), False
    for status, company in steps:
        found = look(status, memory, outcome=outcome, companyName=company)
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

    assert registrants.statuses([registrant("pending", "r1")], memories, now=NOW) == {"pending": 1, "approved": 1}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Memory(seen=SEEN_PENDING), False),
        (Memory(seen=SEEN_PENDING, intent=intent(age=20)), True),
        (Memory(seen=SEEN_PENDING, intent=intent(age=31)), False),
        (Memory(seen=SEEN_PENDING, intent=intent(age=1), approved=True), False),
        (Memory(seen=SEEN_PENDING, intent=intent(age=1), human=True), False),
        (Memory(seen=SEEN_PENDING, intent=intent(age=1, by="command"), human=True), True),
        (Memory(seen=SEEN_APPROVED, intent=intent("cancel", age=1, by="command"), human=True), True),
        (Memory(seen=SEEN_PENDING, intent=intent("cancel", age=1, by="command"), human=True), False),
        (Memory(seen=SEEN_APPROVED, intent=intent("delete", age=1, by="command"), approved=True), True),
        (Memory(seen=Seen(status="deleted"), intent=intent("approve", age=1, by="command")), False),
        (Memory(seen=SEEN_PENDING, intent=intent("register", age=1, by="command")), False),
    ],
)
def test_unfinished(memory: Memory, *, expected: bool) -> None:
    """A call of the last half hour whose effect nobody has seen is unfinished."""
    assert registrants.unfinished({"r1": memory}, now=NOW) == (["r1"] if expected else [])


def test_facts_are_entries_of_their_own() -> None:
    """That somebody was seen approved is a key of its own, beside what was published."""
    found = look("approved", Memory(seen=SEEN_PENDING, intent=intent()))

    assert list(found.entries) == [
        Entry(kind="approved", subject=SERIES, registrant="r1", value=Fact(at=NOW)),
        Entry(kind="seen", subject=SERIES, registrant="r1", value=Seen(status="approved", facts=2, print=PRINT)),
    ]


def test_a_change_of_ones_own_fields_is_a_fact() -> None:
    """Who they are is compared, not where they stand; where no print was taken, the present one is adopted in silence."""
    before = remember(Memory(), look("pending", Memory(), outcome="hold"))
    changed = look("pending", before, outcome="hold", companyName="Example")
    after = remember(before, changed)

    assert published(changed) == ["updated by -", "held by policy"]
    assert published(look("pending", after, outcome="hold", companyName="Example")) == []
    old = Memory(seen=Seen(status="pending", held=VERSION, facts=2))
    assert published(look("pending", old, outcome="hold", companyName="Example")) == []


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"email": "guest@example.com", "id": "r1"}, True),
        ({"id": "r1", "email": "guest@example.com", "fax": "", "address2": None, "customizedQuestions": []}, True),
        ({"id": "r1", "email": "guest@example.com", "status": "approved", "registrationTime": "2026-01-01"}, True),
        ({"id": "r1", "email": "guest@example.com", "lastModifiedTime": "2026-01-01", "joinLink": "https://x"}, True),
        ({"id": "r1", "email": "Guest@example.com"}, False),
        ({"id": "r1", "email": "guest@example.com", "customizedQuestions": [{"questionId": 1}]}, False),
    ],
)
def test_fingerprint(fields: dict[str, Any], *, same: bool) -> None:
    """Order, empty fields, the status and times do not count."""
    assert (fingerprint(fields) == PRINT) == same


def test_a_call_is_not_taken_for_what_a_person_did_after_it() -> None:
    """After a host undid an effect, the same status once more is the host's: the intent is dropped."""
    memory = Memory(seen=SEEN_PENDING, intent=intent(by="command", age=20))
    for status in ("approved", "pending", "approved"):
        found = look(status, memory)
        memory = remember(memory, found)

    assert published(found) == ["approved by host"]


def test_in_shadow_everybody_is_proposed_once_for_each_version() -> None:
    """Nobody is acted on, held or put on the waitlist; the next version proposes anew, and the real one decides."""
    found = look("pending", Memory(), shadow=True)
    memory = remember(Memory(), found)

    assert (published(found), found.action) == (["registered by -", "proposed by policy"], None)
    assert found.observations[1].decision["outcome"] == "approve"
    assert published(look("pending", memory, shadow=True)) == []
    assert published(look("pending", memory, shadow=True, version="policy-2")) == ["proposed by policy"]
    assert look("pending", memory, version="policy-2").action is not None


@pytest.mark.parametrize(
    ("memory", "changes"),
    [
        (Memory(), False),
        (Memory(seen=SEEN_PENDING), False),
        (Memory(seen=SEEN_HELD), True),
        (Memory(seen=SEEN_WAITING), True),
        (Memory(seen=SEEN_HELD, intent=intent(unsettled=False)), True),
    ],
)
def test_whom_another_version_left_undecided_is_a_change(memory: Memory, *, changes: bool) -> None:
    """Newcomers, and those whom nobody decided about, are nobody's change."""
    found = look("pending", memory, version="policy-2")

    assert found.action is not None
    assert found.action.changes == changes


def test_a_second_try_is_no_second_change() -> None:
    """An intent of the same version says that the change was counted already."""
    memory = Memory(seen=Seen(status="pending", held="policy-0", facts=2), intent=intent(unsettled=False))
    found = look("pending", memory)

    assert found.action is not None
    assert not found.action.changes


def test_the_oldest_registration_is_decided_first() -> None:
    """Whatever they were told meanwhile; one without a time comes last."""
    people = [
        msgspec.structs.replace(registrant("pending", id_), registered=at)
        for id_, at in (("none", None), ("young", NOW), ("old", NOW - timedelta(days=1)))
    ]

    ordered = registrants.in_order(people, now=NOW + timedelta(hours=1))

    assert [one.id for one in ordered] == ["old", "young", "none"]


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("latest", "wide", "expected"),
    [
        pytest.param([], None, ago(900), id="usually a quarter of an hour before the newest"),
        pytest.param([ago(20 * n) for n in range(40)], ago(60), ago(900), id="a page holds them all"),
        pytest.param([ago(n) for n in range(100)], ago(60), ago(50), id="after a rush as many as leave room on a page"),
        pytest.param([ago(n) for n in range(100)], None, ago(900), id="unless nobody looked back as far yet"),
        pytest.param([ago(n) for n in range(100)], ago(900), ago(900), id="or not for a quarter of an hour"),
        pytest.param([NOW] * 100, ago(60), ago(-1), id="all within one second"),
    ],
)
def test_begin(latest: list[datetime], wide: datetime | None, expected: datetime) -> None:
    """Where an incremental look begins."""
    assert registrants.begin(NOW, registrants.latest_of(latest), wide=wide, now=NOW) == expected


@pytest.mark.parametrize(
    ("remembered", "absent", "expected"), [(100, 20, True), (100, 21, False), (3, 1, True), (3, 2, False), (0, 0, True)]
)
def test_conclusive(remembered: int, absent: int, *, expected: bool) -> None:
    """A fifth may be absent, and one always; whoever was deleted before does not count."""
    memories = {str(n): Memory(seen=SEEN_APPROVED) for n in range(remembered)}
    memories["gone"] = Memory(seen=Seen(status="deleted"))
    found = {str(n) for n in range(absent, remembered)}

    missing = registrants.absent(found, memories)

    assert len(missing) == absent
    assert registrants.conclusive(missing, memories) == expected


def test_a_deletion_names_the_command_that_asked_for_it() -> None:
    """Else it was a host's; the registrant has no more than an id then."""
    by_command = registrants.gone(
        "r1", Memory(seen=SEEN_APPROVED, intent=intent("bulk-delete", by="command")), series=SERIES, now=NOW
    )
    by_host = registrants.gone("r1", Memory(seen=SEEN_APPROVED, intent=intent()), series=SERIES, now=NOW)

    assert (published(by_command), published(by_host)) == (["deleted by command"], ["deleted by host"])
    assert by_host.observations[0].registrant.fields == {"id": "r1", "status": "deleted"}


def test_an_accepted_approval_takes_its_place_while_it_may_still_show() -> None:
    """Pending with a 204 of the last quarter of an hour counts as approved; after that, or with a person's word, as pending."""
    memories = {
        "young": Memory(seen=SEEN_PENDING, intent=intent(age=14)),
        "old": Memory(seen=SEEN_PENDING, intent=intent(age=16)),
        "back": Memory(seen=SEEN_PENDING, intent=intent(age=1), human=True),
        "cancelled": Memory(seen=SEEN_PENDING, intent=intent("cancel", by="command")),
    }

    assert registrants.statuses([], memories, now=NOW) == {"approved": 1, "pending": 3}


def test_halves_leave_nobody_out_and_count_nothing_twice() -> None:
    """A batch in two, in order; whom it changes was counted before its first call."""
    verdict = Verdict(outcome="approve", rule="", reason="", notify=True, policy="")
    for size in (2, 3, 7, 100):
        batch = [
            registrants.Action(registrant=registrant("pending", str(n)), verdict=verdict, changes=True)
            for n in range(size)
        ]
        one, other = registrants.halves(batch)

        assert [action.registrant.id for action in (*one, *other)] == [str(n) for n in range(size)]
        assert 0 <= len(one) - len(other) <= 1
        assert not any(action.changes for action in (*one, *other))


def test_whom_webex_refuses_stays_undecided_by_this_version() -> None:
    """Said once, as the policy's; the call is forgotten, since nothing came of it."""
    verdict = Verdict(outcome="reject", rule="rivals-out", reason="A rival", notify=True, policy=VERSION)
    action = registrants.Action(registrant=registrant("pending"), verdict=verdict)
    memory = Memory(seen=Seen(status="pending", facts=1, waiting=True, print=PRINT), intent=intent(unsettled=False))
    found = registrants.refused(action, memory, series=SERIES, now=NOW, status=409)
    after = remember(memory, found)

    assert published(found) == ["held by policy"]
    assert found.observations[0].decision == {
        "by": "policy",
        "rule": "rivals-out",
        "reason": "Webex refused to reject this registrant (HTTP 409)",
        "policy": VERSION,
    }
    assert (after.intent, after.seen) == (None, Seen(status="pending", held=VERSION, facts=2, print=PRINT))
    assert look("pending", after).action is None
    assert look("pending", after, companyName="Example").action is not None
    assert look("pending", after, version="policy-2").action is not None


@pytest.mark.parametrize(
    ("memory", "status", "facts", "acts", "binds"),
    [
        pytest.param(Memory(seen=SEEN_APPROVED, released=True), "pending", ["cancelled by host"], True, False,
                     id="put back before anybody saw it"),
        pytest.param(Memory(seen=SEEN_APPROVED, released=True, human=True), "pending", ["cancelled by host"], False, True,
                     id="a person's word after the release"),
        pytest.param(Memory(seen=SEEN_APPROVED, released=True, approved=True), "pending", ["cancelled by host"], False, True,
                     id="seen approved after the release"),
        pytest.param(Memory(seen=SEEN_PENDING, released=True), "pending", [], True, False, id="nothing was decided"),
        pytest.param(Memory(seen=SEEN_APPROVED, released=True), "approved", [], False, False, id="still approved"),
        pytest.param(Memory(seen=SEEN_APPROVED, released=True), "rejected", ["rejected by host"], False, False,
                     id="decided otherwise"),
        pytest.param(Memory(seen=SEEN_APPROVED), "pending", ["cancelled by host"], False, True, id="never released"),
    ],
)  # fmt: skip
def test_the_first_look_after_a_release(
    memory: Memory, status: str, facts: list[str], *, acts: bool, binds: bool
) -> None:
    """What happened until then does not bind the policy; what happens after it does."""
    found = look(status, memory)
    after = remember(memory, found)

    assert (published(found), found.action is not None, after.human) == (facts, acts, binds)
    assert after.approved or status != "approved"


def test_a_release_is_a_fact_of_its_own() -> None:
    """One record for each registrant, after which the policy decides again."""
    (entry,) = registrants.released(SERIES, ["r1"], now=NOW)
    partition = PartitionMemory()
    partition.of(SERIES).registrants["r1"] = Memory(seen=SEEN_HELD, approved=True, human=True)
    partition.apply(entry)

    assert look("pending", partition.of(SERIES).registrants["r1"]).action is not None
