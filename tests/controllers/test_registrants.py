"""The registrants controller: fetch, decide, act, read back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service.controllers.ownership import Ownership
from service.core import policy
from service.core.errors import CannotStore, NotOwner, WebexRejected, WebexUnavailable
from tests.controllers.conftest import PLACE, POLICY, START, Desk


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
    """Another instance reads at once, but writes only when the lease before it has run out or was released."""
    await desk.look()
    desk.webex.register("late", at=desk.now)
    other = await desk.restarted(instance="two")
    other.now += timedelta(seconds=17.8)
    await other.look(full=True)
    assert (other.webex.made("change_status")[-1][1]) == ["late"]

    await other.ownership.release(0)
    other.webex.register("later", at=desk.now)
    third = await other.restarted(instance="three")
    await third.look(full=True)
    assert (third.webex.made("change_status")[-1][1]) == ["later"]


async def test_nothing_is_written_for_a_partition_that_was_given_up(desk: Desk) -> None:
    """After the partition went to somebody else, neither Webex nor the ledger is written."""
    desk.ledger.forget(0)
    with pytest.raises(NotOwner):
        await desk.look()
    with pytest.raises(NotOwner):
        await desk.ownership.writable(PLACE)

    assert desk.webex.made("change_status") == []


async def test_a_process_that_stood_still_writes_nothing_until_it_has_heard_of_its_partitions(desk: Desk) -> None:
    """After a freeze longer than the lease there is a pause, and a partition that is gone by then is not written for."""
    moment = [0.0]
    ownership = Ownership(desk.ledger, instance="one", now=desk.clock, monotonic=lambda: moment[0])
    await ownership.writable(PLACE)
    moment[0] = 40.0
    waiting = asyncio.create_task(ownership.writable(PLACE))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    desk.ledger.forget(0)
    ownership.drop(0)
    moment[0] = 45.0

    with pytest.raises(NotOwner, match="given up"):
        await waiting
