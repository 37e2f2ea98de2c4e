"""The registrants controller: fetch, decide, act, read back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service.controllers.ownership import Ownership
from service.controllers.registrants import RegistrantsController
from service.controllers.task import Task
from service.core import policy
from service.core.errors import CannotStore, NotOwner, WebexRejected, WebexUnavailable
from service.core.ledger import Entry, Fact
from service.core.message import Message
from tests.controllers.conftest import POLICY, SERIES, START, Desk


async def test_a_first_look_brings_everybody_where_the_policy_wants_them(desk: Desk) -> None:
    """Partners are approved, rivals rejected, others held: one write and one read-back for each verb, each with a reason."""
    looked = await desk.look()

    assert (looked.result, looked.again, looked.decided) == ("finished", False, 2)
    assert {id_: one.status for id_, one in desk.webex.people.items()} == {
        "partner": "approved",
        "rival": "rejected",
        "unknown": "pending",
    }
    assert desk.webex.made("change_status") == [("approve", ["partner"], False), ("reject", ["rival"], True)]
    assert desk.webex.made("query_registrants") == [["partner@example.org"], ["rival@rival.example"]]
    assert sorted(await desk.told()) == [
        ("partner", "approved"),
        ("partner", "registered"),
        ("rival", "registered"),
        ("rival", "rejected"),
        ("unknown", "held"),
        ("unknown", "registered"),
    ]
    decisions = {fact.data["id"]: fact.data["decision"] for fact in await desk.facts() if "decision" in fact.data}
    assert {id_: (one["by"], one["rule"]) for id_, one in decisions.items()} == {
        "partner": ("policy", "partners-in"),
        "rival": ("policy", "rivals-out"),
        "unknown": ("policy", ""),
    }
    assert desk.observer.decisions == {"approve": 1, "reject": 1, "hold": 1}


async def test_the_intent_is_durable_before_the_call(desk: Desk) -> None:
    """Where the ledger cannot take the intent, Webex is never asked."""
    desk.publisher.refuse = lambda message: message.key.startswith("intent/")

    with pytest.raises(CannotStore):
        await desk.look()

    assert desk.webex.made("change_status") == []


async def test_looking_again_changes_nothing(desk: Desk) -> None:
    """A second look, in this process or the next, publishes nothing and asks for nothing."""
    await desk.look()
    facts, written = await desk.told(), len(await desk.ledger_kinds())
    await desk.look(minutes=1)
    desk = await desk.restarted()
    await desk.look(minutes=1)

    assert await desk.told() == facts
    assert desk.webex.made("change_status") == [("approve", ["partner"], False), ("reject", ["rival"], True)]
    assert len(await desk.ledger_kinds()) == written


async def test_later_looks_are_incremental(desk: Desk) -> None:
    """After a full look the next ones begin a quarter of an hour before the newest registration seen."""
    await desk.look()
    await desk.look(minutes=1)
    desk.webex.register("late", at=desk.now)
    looked = await desk.look(minutes=1)

    newest = START - timedelta(days=1) - timedelta(minutes=15)
    assert desk.webex.made("list_registrants") == [None, newest, newest]
    assert looked.decided == 1


async def test_a_lost_answer_is_settled_by_reading_back(desk: Desk) -> None:
    """A call whose answer got lost is not made again when the list shows its effect."""
    desk.webex.failures["change_status"] = [WebexUnavailable("gone", maybe_done=True)]
    with pytest.raises(WebexUnavailable):
        await desk.look()
    await desk.look(minutes=1)

    assert [verb for verb, _, _ in desk.webex.made("change_status")] == ["approve", "reject"]
    assert ("partner", "approved") in await desk.told()


async def test_a_call_that_certainly_did_not_happen_is_made_again(desk: Desk) -> None:
    """A refused connection leaves the registrant pending, and the next look tries again."""
    desk.webex.failures["change_status"] = [WebexUnavailable("no connection")]
    with pytest.raises(WebexUnavailable):
        await desk.look()
    await desk.look(minutes=1)

    assert [verb for verb, _, _ in desk.webex.made("change_status")] == ["approve", "approve", "reject"]


async def test_pending_means_nothing_for_a_quarter_of_an_hour_after_a_204(desk: Desk) -> None:
    """While REST lags behind an accepted call, nobody is asked for twice, also after a restart."""
    desk.webex.lagging = True
    looked = await desk.look()
    for id_ in ("partner", "rival"):
        desk.webex.set_status(id_, "pending")
    assert looked.again
    assert (await desk.look(minutes=5)).again
    desk = await desk.restarted()
    assert (await desk.look(minutes=9)).again
    assert len(desk.webex.made("change_status")) == 2

    await desk.look(minutes=2)
    assert len(desk.webex.made("change_status")) == 4


async def test_a_host_who_puts_somebody_back_is_not_overruled(desk: Desk) -> None:
    """Whoever was seen approved and is pending later stays so: now, after a restart and under another policy."""
    await desk.look()
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=61, full=True)
    desk = await desk.restarted()
    desk.policy = policy.parse(POLICY + "default: approve\n")
    await desk.look(minutes=61, full=True)

    assert [ids for verb, ids, _ in desk.webex.made("change_status") if "partner" in ids] == [["partner"]]
    assert ("partner", "cancelled") in await desk.told()
    assert desk.webex.people["unknown"].status == "approved"


async def test_a_paused_policy_writes_nothing_to_webex(desk: Desk) -> None:
    """Everything is observed and nothing is done while the policy says paused."""
    desk.policy = policy.parse(POLICY + "paused: true\n")
    await desk.look()

    assert desk.webex.made("change_status") == []


async def test_a_meeting_without_registration_costs_one_call(desk: Desk) -> None:
    """Registrants are asked for only where the meeting has the registration object."""
    del desk.webex.fields["registration"]

    assert (await desk.look()).result == "noRegistration"
    assert [name for name, _ in desk.webex.calls] == ["get_meeting"]
    assert await desk.ledger_kinds() == []


async def test_what_webex_refuses_is_raised(desk: Desk) -> None:
    """A permanent refusal reaches the processor, and nothing is said to be approved."""
    desk.webex.failures["change_status"] = [WebexRejected("no", status=400)]
    with pytest.raises(WebexRejected):
        await desk.look()

    assert ("partner", "approved") not in await desk.told()


async def test_hundreds_are_acted_on_in_hundreds(desk: Desk) -> None:
    """One write and one read-back is made for each started hundred."""
    for n in range(250):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=1))
    await desk.look()

    assert [len(ids) for verb, ids, _ in desk.webex.made("change_status") if verb == "approve"] == [100, 100, 51]
    assert len(desk.webex.made("query_registrants")) == 4


async def test_a_new_owner_waits_for_the_lease_of_the_old_one(desk: Desk) -> None:
    """Another instance reads at once, but writes only when the lease before it has run out, and then looks anew."""
    await desk.look()
    desk.webex.register("late", at=desk.now)
    other = await desk.restarted(instance="two")
    other.now += timedelta(seconds=17.7)
    looking = asyncio.create_task(other.look(full=True))
    await asyncio.sleep(0.1)
    assert ("late" in str(other.webex.made("change_status")), looking.done()) == (False, False)
    with pytest.raises(NotOwner, match="look again"):
        await looking
    other.now += timedelta(seconds=0.3)
    await other.look(full=True)
    assert other.webex.made("change_status")[-1][1] == ["late"]


async def test_a_released_lease_is_not_waited_for(desk: Desk) -> None:
    """Whoever takes over from an owner that left in order writes at once."""
    await desk.look()
    await desk.ownership.release(0)
    desk.webex.register("late", at=desk.now)
    other = await desk.restarted(instance="two")
    await other.look(full=True)

    assert other.webex.made("change_status")[-1][1] == ["late"]


async def test_what_the_former_owner_still_wrote_is_taken_in(desk: Desk) -> None:
    """A fact that the old owner wrote after the restore is known before the new one's first write."""
    await desk.look()
    other = await desk.restarted(instance="two")
    other.now += timedelta(seconds=17.8)
    await desk.ledger.record(desk.place, [Entry(kind="human", subject=SERIES, registrant="late", value=Fact(at=START))])
    desk.webex.register("late", at=START)
    with pytest.raises(NotOwner):
        await other.look(full=True)
    other.now += timedelta(seconds=0.3)
    await other.look(full=True)

    assert "late" not in str(other.webex.made("change_status"))


async def test_nothing_is_written_for_a_partition_that_was_given_up(desk: Desk) -> None:
    """After the partition went to somebody else, neither Webex nor the ledger is written."""
    place = desk.place
    desk.ledger.forget(0)
    with pytest.raises(NotOwner):
        await desk.controller.look(Task(place=place, series=SERIES))
    with pytest.raises(NotOwner):
        await desk.ownership.writable(place)
    with pytest.raises(NotOwner):
        await desk.ledger.record(place, [Entry(kind="human", subject=SERIES, registrant="r", value=None)])

    assert desk.webex.made("change_status") == []


async def test_a_process_that_stood_still_writes_nothing_until_it_has_heard_of_its_partitions(desk: Desk) -> None:
    """After a freeze longer than the lease there is a pause, and a partition that is gone by then is not written for."""
    moment, place = [0.0], desk.place
    ownership = Ownership(desk.ledger, instance="one", now=desk.clock, monotonic=lambda: moment[0])
    await ownership.writable(place)
    moment[0] = 40.0
    waiting = asyncio.create_task(ownership.writable(place))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    with pytest.raises(NotOwner):
        ownership.check(place)
    desk.ledger.forget(0)
    ownership.drop(0)
    moment[0] = 45.0

    with pytest.raises(NotOwner):
        await waiting


async def test_a_lease_that_ran_out_between_intent_and_call_stops_the_call(desk: Desk) -> None:
    """Whoever stood still after the intent was stored does not ask Webex."""
    moment = [0.0]
    ownership = Ownership(desk.ledger, instance="one", now=desk.clock, monotonic=lambda: moment[0])
    desk.controller = RegistrantsController(
        webex=lambda _: desk.webex,
        ledger=desk.ledger,
        ownership=ownership,
        policy=lambda: desk.policy,
        observer=desk.observer,
        receiver="test",
        now=desk.clock,
    )

    def freeze(message: Message) -> bool:
        moment[0] += 20.0 if message.key.startswith("intent/") else 0.0
        return False

    desk.publisher.refuse = freeze
    with pytest.raises(NotOwner):
        await desk.look()

    assert desk.webex.made("change_status") == []


async def test_a_pause_between_two_batches_stops_the_second(desk: Desk) -> None:
    """What is paused while a look acts is asked of nobody, and the look is not taken for done."""
    running, paused = desk.policy, policy.parse(POLICY + "paused: true\n")

    def pause_after_the_first(message: Message) -> bool:
        if '"unsettled":true' in (message.value or b"").decode():
            desk.policy = paused
        return False

    desk.publisher.refuse = pause_after_the_first
    looked = await desk.look()
    assert (looked.decided, [verb for verb, _, _ in desk.webex.made("change_status")]) == (1, ["approve"])

    desk.publisher.refuse, desk.policy = (lambda _: False), running
    await desk.look(minutes=1)
    assert [verb for verb, _, _ in desk.webex.made("change_status")] == ["approve", "reject"]


async def test_capacity_is_counted_while_deciding(desk: Desk) -> None:
    """Within one look each approval counts for the next decision, earliest registration first."""
    desk.policy = policy.parse(
        "version: 1\nrules:\n  - {name: two-seats, when: counts.approved < 2, then: approve, reason: A seat is free}\n"
    )
    for n in range(5):
        desk.webex.register(f"p{n}", at=START - timedelta(days=9 - n))
    await desk.look()

    assert [ids for _, ids, _ in desk.webex.made("change_status")] == [["p0", "p1"]]


async def test_a_wrong_clock_at_webex_does_not_blind_the_next_look(desk: Desk) -> None:
    """A registration from the future does not become the place where the next look begins."""
    desk.webex.register("martian", at=START + timedelta(days=400))
    await desk.look()
    await desk.look(minutes=1)

    assert desk.webex.made("list_registrants")[-1] == START - timedelta(minutes=15)


async def test_a_204_is_not_forgotten_where_it_cannot_be_written(desk: Desk) -> None:
    """A call that Webex accepted counts as made, even if the ledger refuses to store that."""
    desk.webex.lagging = True
    desk.publisher.refuse = lambda message: '"unsettled":true' in (message.value or b"").decode()
    with pytest.raises(CannotStore):
        await desk.look()
    desk.webex.set_status("partner", "pending")
    desk.publisher.refuse = lambda _: False
    await desk.look(minutes=1)

    assert [ids for verb, ids, _ in desk.webex.made("change_status") if verb == "approve"] == [["partner"]]


async def test_a_meeting_that_lost_its_registration_is_swept_no_more(desk: Desk) -> None:
    """When Webex takes the registration object away the meeting is forgotten."""
    await desk.look()
    del desk.webex.fields["registration"]
    await desk.look(minutes=1)

    assert [series for _, series, memory in desk.ledger.known() if memory.meeting] == []


async def test_facts_and_what_is_remembered_of_them_are_stored_together(desk: Desk) -> None:
    """Where the ledger refuses an entry, its fact is not published either, and nothing is remembered."""
    desk.publisher.refuse = lambda message: message.key.startswith("seen/")
    with pytest.raises(CannotStore):
        await desk.look()

    assert await desk.facts() == []
    assert desk.ledger.series(desk.place, SERIES).registrants == {}


async def test_a_lost_answer_is_read_back_at_once(desk: Desk) -> None:
    """The effect of a call whose answer got lost is published by the look that made it."""
    desk.webex.failures["change_status"] = [WebexUnavailable("gone", maybe_done=True)]
    with pytest.raises(WebexUnavailable):
        await desk.look()

    assert desk.webex.made("query_registrants") == [["partner@example.org"]]
    assert ("partner", "approved") in await desk.told()


async def test_a_new_policy_is_followed_by_a_full_look(desk: Desk) -> None:
    """Those whom the old version held may be older than an incremental look reaches."""
    await desk.look()
    desk.policy = policy.parse(POLICY + "default: reject\n")
    await desk.look(minutes=1)

    assert desk.webex.made("list_registrants") == [None, None]


async def test_an_unconfirmed_call_is_followed_by_a_full_look(desk: Desk) -> None:
    """Only a full list can tell what became of somebody who registered long ago."""
    desk.webex.lagging = True
    await desk.look()
    await desk.look(minutes=1)

    assert desk.webex.made("list_registrants") == [None, None]
