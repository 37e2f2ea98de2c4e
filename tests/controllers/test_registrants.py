"""The registrants controller: fetch, decide, act, read back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.registrants import CHUNK, RegistrantsController
from service.controllers.task import Task
from service.core import policy, registrants, trial
from service.core.errors import (
    CannotStore,
    NotOwner,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.ledger import Entry, Fact, Intent, KnownMeeting, PolicyRecord, Seen, tombstones
from service.core.message import Message
from tests.controllers.conftest import POLICY, SERIES, START, Desk


def accepted(version: str) -> Entry:
    return Entry(kind="policy", subject="default", value=PolicyRecord(accepted=version))


def acted(desk: Desk) -> list[str]:
    """Everybody whom Webex was asked about, in order."""
    return [id_ for _, ids, _ in desk.webex.made("change_status") for id_ in ids]


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
    looked = await desk.look()

    assert (looked.decided, looked.again) == (2, False)
    assert [verb for verb, _, _ in desk.webex.made("change_status")] == ["approve", "reject"]
    assert ("partner", "approved") in await desk.told()


async def test_a_lost_answer_without_an_effect_ends_the_look(desk: Desk) -> None:
    """Where the read-back still says pending, the failure counts, and the next look tries again."""
    desk.webex.lagging = True
    desk.webex.failures["change_status"] = [WebexUnavailable("gone", maybe_done=True)]
    with pytest.raises(WebexUnavailable):
        await desk.look()
    desk.webex.lagging = False
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=1)

    assert [verb for verb, _, _ in desk.webex.made("change_status")] == ["approve", "approve", "reject"]


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
    await desk.obey(accepted(desk.policy.version))
    await desk.look(minutes=61, full=True)

    assert [ids for verb, ids, _ in desk.webex.made("change_status") if "partner" in ids] == [["partner"]]
    assert ("partner", "cancelled") in await desk.told()
    assert desk.webex.people["unknown"].status == "approved"


async def test_a_paused_policy_writes_nothing_to_webex(desk: Desk) -> None:
    """Everything is observed and nothing is done while the policy says paused."""
    desk.policy = policy.parse(POLICY + "paused: true\n")
    await desk.look()

    assert desk.webex.made("change_status") == []


@pytest.mark.parametrize(
    "error",
    [
        WebexRejected("no", status=413),
        WebexRejected("unreadable", status=200, maybe_done=True),
        WebexUnauthorized("no", status=403),
    ],
)
async def test_a_refusal_that_is_not_about_registrants_is_raised(desk: Desk, error: WebexError) -> None:
    """It reaches the processor, no part of the batch is tried, and nothing is said to be approved or held."""
    desk.webex.lagging = True
    desk.webex.register("second", at=START)
    desk.webex.failures["change_status"] = [error]
    with pytest.raises(type(error)):
        await desk.look()

    assert acted(desk) == ["partner", "second"]
    assert [what for id_, what in await desk.told() if id_ in ("partner", "second")] == ["registered"] * 2


# --- refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 409, 412, 422])
async def test_one_whom_webex_refuses_keeps_nobody_else_waiting(desk: Desk, status: int) -> None:
    """They are found by halves and held, with the reason; the look goes on; nobody tries them again, nor after a restart."""
    desk.webex.fields["registration"] = {}
    for n in range(99):
        desk.webex.register(f"p{n}", at=START - timedelta(minutes=n))
    desk.webex.refusing["p37"] = status
    with capture_logs() as logs:
        looked = await desk.look()

    assert len(desk.webex.made("change_status")) <= 1 + registrants.HALVINGS + 1  # the rival too
    assert [id_ for id_, one in desk.webex.people.items() if one.status == "pending"] == ["unknown", "p37"]
    assert (looked.decided, looked.again, desk.webex.people["rival"].status) == (100, False, "rejected")
    (fact,) = [one for one in await desk.facts() if one.data["id"] == "p37" and one.type.endswith("held.v1")]
    assert fact.data["decision"] == {
        "by": "policy",
        "rule": "partners-in",
        "reason": f"Webex refused to approve this registrant (HTTP {status})",
        "policy": desk.policy.version,
    }
    (line,) = [each for each in logs if each["event"] == "registrant.refused"]
    assert (line["registrant"], line["status"], line["log_level"]) == ("p37", status, "warning")

    told, calls = await desk.told(), len(desk.webex.made("change_status"))
    desk = await desk.restarted()
    assert not (await desk.look(minutes=61, full=True)).again
    assert (await desk.told(), len(desk.webex.made("change_status"))) == (told, calls)


async def test_whom_webex_refused_is_tried_again_when_something_changed(desk: Desk) -> None:
    """The registrant, or the version of the policy; what a host does meanwhile is the host's."""
    desk.webex.refusing["partner"] = 400
    await desk.look()
    desk.webex.update("partner", companyName="Example")
    await desk.look(minutes=61, full=True)
    assert acted(desk) == ["partner", "rival", "partner"]
    assert (await desk.told())[-2:] == [("partner", "updated"), ("partner", "held")]
    desk.policy = policy.parse(POLICY.replace("A partner", "Partners"))
    await desk.obey(accepted(desk.policy.version))
    await desk.look(minutes=1)
    assert acted(desk) == ["partner", "rival", "partner", "partner"]
    desk.webex.set_status("partner", "approved")
    await desk.look(minutes=1, full=True)

    assert (await desk.facts())[-1].data["decision"]["by"] == "host"


async def test_no_part_of_a_refused_batch_is_asked_for_without_an_intent(desk: Desk) -> None:
    """Where the ledger cannot take the intents of a half, Webex is not asked about it."""
    desk.webex.register("second", at=START)
    desk.webex.refusing["second"] = 400
    desk.publisher.refuse = lambda message: message.key.startswith("intent/") and bool(acted(desk))
    with pytest.raises(CannotStore):
        await desk.look()

    assert desk.webex.made("change_status") == [("approve", ["partner", "second"], False)]


@pytest.mark.parametrize("other", [POLICY + "paused: true\n", "version: 1\nrules: []\n"], ids=["paused", "replaced"])
async def test_the_parts_of_a_refused_batch_are_writes_of_their_own(desk: Desk, other: str) -> None:
    """What is paused, or decided by another version, meanwhile is asked of nobody more."""
    desk.webex.register("second", at=START)
    desk.webex.refusing["second"] = 400
    change_status = desk.webex.change_status

    async def changed(*given: Any, **more: Any) -> None:
        desk.policy = policy.parse(other)
        await change_status(*given, **more)

    desk.webex.change_status = changed  # type: ignore[method-assign]
    await desk.look()

    assert desk.webex.made("change_status") == [("approve", ["partner", "second"], False)]


async def test_what_fails_after_a_call_was_taken_is_no_refusal(desk: Desk) -> None:
    """A read-back that Webex refuses makes nobody ask for the same registrants once more."""
    desk.webex.register("second", at=START)
    desk.webex.failures["query_registrants"] = [WebexRejected("no", status=400)]
    with pytest.raises(WebexRejected):
        await desk.look()

    assert acted(desk) == ["partner", "second"]


async def test_several_whom_webex_refuses_are_found_in_several_looks(desk: Desk) -> None:
    """Each look makes a few calls more, everybody else is acted on, and it ends."""
    desk.webex.fields["registration"] = {}
    for n in range(99):
        desk.webex.register(f"p{n}", at=START - timedelta(minutes=n))
    desk.webex.refusing = {f"p{n}": 400 for n in range(50, 99, 4)}
    looks, calls = 0, 0
    looked = await desk.look()
    while looked.again:
        made = len(desk.webex.made("change_status"))
        assert made - calls <= 2 + registrants.HALVINGS
        calls, looks = made, looks + 1
        looked = await desk.look(minutes=1)

    assert looks < 10
    left = {id_ for id_, one in desk.webex.people.items() if one.status == "pending"}
    assert left == {"unknown", *desk.webex.refusing}
    assert len([what for _, what in await desk.told() if what == "held"]) == len(left)


@pytest.mark.parametrize(("status", "error"), [(400, WebexRejected), (404, WebexUnavailable)])
async def test_where_webex_takes_nobody_its_refusal_is_raised(desk: Desk, status: int, error: type[WebexError]) -> None:
    """After a few calls; so it is seen, and not tried a hundred times."""
    desk.webex.fields["registration"] = {}
    for n in range(99):
        desk.webex.register(f"p{n}", at=START - timedelta(minutes=n))
    desk.webex.refusing = dict.fromkeys(desk.webex.people, status)
    with pytest.raises(error) as raised:
        await desk.look()

    assert raised.value.status == status
    assert len(desk.webex.made("change_status")) == 1 + registrants.HALVINGS


@pytest.mark.parametrize("operation", ["list_registrants", "query_registrants", "change_status"])
async def test_a_404_about_registrants_is_no_word_about_the_meeting(desk: Desk, operation: str) -> None:
    """The meeting was read a moment ago: a look tries again soon, or goes on, and never says that nothing was found."""
    desk.webex.failures[operation] = [WebexNotFound("not there", status=404)]
    if operation == "change_status":
        assert (await desk.look()).result == "finished"
        assert ("partner", "held") in await desk.told()
        return
    with pytest.raises(WebexUnavailable) as raised:
        await desk.look()

    assert raised.value.status == 404


async def test_the_place_that_a_refused_one_does_not_take_is_for_the_next(desk: Desk) -> None:
    """Who was told that no place is free is decided again by the next look, although no list of the newest shows them."""
    desk.webex.refusing["p1"] = 409
    await waiting_line(desk, places=2, people=3)
    assert (await desk.told())[-1] == ("p1", "held")
    desk.now += timedelta(minutes=5)
    desk.webex.register("late", at=desk.now)
    await desk.look()

    assert [id_ for id_, one in desk.webex.people.items() if one.status == "approved"] == ["p0", "p2"]


async def test_hundreds_are_acted_on_in_hundreds(desk: Desk) -> None:
    """One write and one read-back is made for each started hundred."""
    desk.webex.fields["registration"] = {"maxRegisterNum": 1000}
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
        await desk.controller.look(Task(place=place, series=SERIES), await desk.webex.get_meeting(SERIES))
    with pytest.raises(NotOwner):
        await desk.ownership.writable(place)
    with pytest.raises(NotOwner):
        await desk.ledger.record(place, [Entry(kind="human", subject=SERIES, registrant="r", value=None)])

    assert desk.webex.made("change_status") == []


async def test_a_process_that_stood_still_writes_nothing_until_it_has_heard_of_its_partitions(desk: Desk) -> None:
    """After a freeze longer than the lease there is a pause, and a partition that is gone by then is not written for."""
    moment, place = [0.0], desk.place
    ownership = Ownership(
        desk.ledger, instance="one", unconfirmed=lambda: 0.0, now=desk.clock, monotonic=lambda: moment[0]
    )
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
    ownership = Ownership(
        desk.ledger, instance="one", unconfirmed=lambda: 0.0, now=desk.clock, monotonic=lambda: moment[0]
    )
    desk.controller = RegistrantsController(
        webex=lambda _: desk.webex,
        ledger=desk.ledger,
        permission=Permission(ledger=desk.ledger, ownership=ownership, policy=lambda: desk.policy),
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


async def test_a_fact_that_is_not_remembered_comes_again(desk: Desk) -> None:
    """Where the ledger refuses an entry, nothing is remembered: the next look publishes the same facts, under the same ids."""
    desk.publisher.refuse = lambda message: message.key.startswith("seen/")
    with pytest.raises(CannotStore):
        await desk.look()
    assert desk.ledger.series(desk.place, SERIES).registrants == {}
    ids = [fact.id for fact in await desk.facts()]
    desk.publisher.refuse = lambda _: False
    await desk.look()

    assert len(ids) == 4
    assert [fact.id for fact in await desk.facts()][4:8] == ids


async def test_a_new_policy_is_followed_by_a_full_look(desk: Desk) -> None:
    """Those whom the old version held may be older than an incremental look reaches."""
    await desk.look()
    desk.policy = policy.parse(POLICY + "default: reject\n")
    await desk.look(minutes=1)

    assert desk.webex.made("list_registrants") == [None, None]


async def test_a_few_unconfirmed_calls_are_asked_about_one_by_one(desk: Desk) -> None:
    """A list of the newest does not tell what became of somebody who registered long ago."""
    desk.webex.register("newest", email="newest@example.com", at=START)
    desk.webex.lagging = True
    assert (await desk.look()).again
    await desk.look(minutes=1)
    assert sorted(desk.webex.made("get_registrant")) == ["partner", "rival"]
    assert ("partner", "approved") in await desk.told()

    assert not (await desk.look(minutes=1)).again
    assert len(desk.webex.made("get_registrant")) == 2


async def test_nobody_is_asked_about_every_few_seconds(desk: Desk) -> None:
    """While Webex shows no effect of a call, once a minute is enough."""
    desk.webex.register("newest", email="newest@example.com", at=START)
    desk.webex.lagging = True
    await desk.look()
    for id_ in ("partner", "rival"):
        desk.webex.set_status(id_, "pending")
    for _ in range(20):
        await desk.look(minutes=0.1)

    assert len(desk.webex.made("get_registrant")) == 4
    assert acted(desk) == ["partner", "rival"]


async def test_many_unconfirmed_calls_are_followed_by_full_looks_a_minute_apart(desk: Desk) -> None:
    """Only a full list can tell about so many; while it says nothing new it is not read every few seconds."""
    desk.webex.fields["registration"] = {}
    for n in range(30):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=30 + n))
    desk.webex.lagging = True
    await desk.look()
    for id_ in desk.webex.people:
        desk.webex.set_status(id_, "pending")
    for _ in range(13):
        await desk.look(minutes=0.1)

    assert desk.webex.made("list_registrants").count(None) == 2
    assert len(acted(desk)) == 32


async def test_what_a_command_did_is_observed_by_the_look_after_it(desk: Desk) -> None:
    """The one whom it cancelled, or deleted, is asked for, however long ago they registered."""
    desk.webex.register("newest", email="newest@example.com", at=START)
    await desk.look()
    told_by_command(
        desk, "cancel", "partner", Entry(kind="human", subject=SERIES, registrant="partner", value=Fact(at=START))
    )
    told_by_command(desk, "delete", "rival")
    desk.webex.set_status("partner", "pending")
    desk.webex.delete("rival")
    await desk.look(minutes=0.1)

    assert sorted((await desk.told())[-2:]) == [("partner", "cancelled"), ("rival", "deleted")]
    assert {fact.data["decision"]["by"] for fact in (await desk.facts())[-2:]} == {"command"}
    assert desk.webex.made("list_registrants").count(None) == 1


# --- what became of registrants -----------------------------------------------------------------------------------------


async def test_somebody_who_changed_is_reported_and_decided_again(desk: Desk) -> None:
    """A held registrant whose own fields changed has another chance under the same policy."""
    await desk.look()
    desk.webex.update("unknown", companyName="Example")
    desk.policy.default = policy.Outcome.APPROVE
    await desk.look(minutes=61, full=True)

    assert (await desk.told())[-2:] == [("unknown", "updated"), ("unknown", "approved")]


async def test_a_deleted_registrant_is_reported_once(desk: Desk) -> None:
    """Whoever is absent from a full list, and for whom Webex answers 404, was deleted."""
    await desk.look()
    desk.webex.delete("partner")
    await desk.look(minutes=1)
    await desk.look(minutes=61, full=True)
    desk = await desk.restarted()
    await desk.look(minutes=61, full=True)

    assert [told for told in await desk.told() if told[1] == "deleted"] == [("partner", "deleted")]
    assert desk.webex.made("get_registrant") == ["partner"]


async def test_absence_is_no_proof(desk: Desk) -> None:
    """A list that lost somebody says nothing; whoever is there all the same is looked at."""
    await desk.look()
    desk.webex.unlisted = {"partner"}
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=61, full=True)

    assert (await desk.told())[-1] == ("partner", "cancelled")
    assert acted(desk) == ["partner", "rival"]


async def test_a_list_that_lost_a_page_concludes_nothing(desk: Desk) -> None:
    """When more than a fifth is absent at once nobody is asked for, though Webex would answer 404."""
    for n in range(40):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=1))
    await desk.look()
    for n in range(10):
        desk.webex.delete(f"p{n}")
    await desk.look(minutes=61, full=True)
    assert desk.webex.made("get_registrant") == []

    for n in range(7):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=1))
    await desk.look(minutes=61, full=True)
    assert sorted(desk.webex.made("get_registrant")) == ["p7", "p8", "p9"]
    assert len([what for _, what in await desk.told() if what == "deleted"]) == 3


async def test_at_most_twenty_absent_are_asked_for_in_one_look(desk: Desk) -> None:
    """The others are asked for later; a call that fails does not stop the look."""
    desk.webex.fields["registration"] = {}
    for n in range(200):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=1))
    await desk.look()
    for n in range(30):
        desk.webex.delete(f"p{n}")
    await desk.look(minutes=61, full=True)
    assert len(desk.webex.made("get_registrant")) == 20
    desk.webex.failures["get_registrant"] = [None, WebexUnavailable("gone")]
    await desk.look(minutes=61, full=True)
    assert len([what for _, what in await desk.told() if what == "deleted"]) == 21
    await desk.look(minutes=61, full=True)

    assert len([what for _, what in await desk.told() if what == "deleted"]) == 30


async def test_what_a_command_did_is_said_to_be_a_commands(desk: Desk) -> None:
    """Approvals and cancellations that a command asked for name it; a cancelled one is left alone afterwards."""
    desk.policy = policy.parse("version: 1\nrules: []\n")
    await desk.look()
    told_by_command(desk, "approve", "partner")
    desk.webex.set_status("partner", "approved")
    await desk.look(minutes=61, full=True)
    told_by_command(
        desk, "cancel", "partner", Entry(kind="human", subject=SERIES, registrant="partner", value=Fact(at=START))
    )
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=61, full=True)

    said = {fact.type.split(".")[2]: fact.data["decision"] for fact in (await desk.facts())[-2:]}
    assert {what: (one["by"], one["rule"]) for what, one in said.items()} == {
        "approved": ("command", "cmd-approve"),
        "cancelled": ("command", "cmd-cancel"),
    }
    desk.policy = policy.parse("version: 1\ndefault: approve\nrules: []\n")
    await desk.obey(accepted(desk.policy.version))
    await desk.look(minutes=1)
    assert "partner" not in acted(desk)


def told_by_command(desk: Desk, verb: str, id_: str, *more: Entry) -> None:
    intent = Intent(
        verb=verb, rule=f"cmd-{verb}", reason="", notify=True, policy="", at=desk.now, unsettled=True, by="command"
    )
    desk.ledger.remember(desk.place, [Entry(kind="intent", subject=SERIES, registrant=id_, value=intent), *more])


async def test_a_thousand_looks_never_bring_back_whom_a_host_cancelled(desk: Desk) -> None:
    """Neither hints nor sweeps nor another policy nor a restart undo a person's word; an operator's order does."""
    await desk.look()
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=61, full=True)
    for n in range(200):
        await desk.look(minutes=1, full=n % 50 == 0, swept=n % 2 == 0)
    assert acted(desk) == ["partner", "rival"]

    await desk.obey(*registrants.released(SERIES, ["partner"], now=desk.now))
    desk = await desk.restarted()
    await desk.look(full=True)
    assert acted(desk) == ["partner", "rival", "partner"]
    assert (await desk.told())[-1] == ("partner", "approved")


async def release(desk: Desk, *ids: str) -> None:
    """What an operator's order writes."""
    await desk.obey(*registrants.released(SERIES, ids, now=desk.now))


async def test_a_cancel_that_nobody_saw_before_its_release_is_released(desk: Desk) -> None:
    """The look after it, also of the next process, publishes that they were put back, and the policy decides again."""
    await desk.look()
    desk.webex.set_status("partner", "pending")
    await release(desk, "partner")
    desk = await desk.restarted()
    await desk.look(minutes=1, full=True)

    assert (await desk.told())[-2:] == [("partner", "cancelled"), ("partner", "approved")]
    assert desk.webex.people["partner"].status == "approved"
    assert not desk.ledger.series(desk.place, SERIES).registrants["partner"].human


async def test_a_release_is_for_what_came_before_the_look_after_it(desk: Desk) -> None:
    """Whoever is approved then is so without another fact, and a host who puts them back later is not overruled."""
    await desk.look()
    await release(desk, "partner", "rival")
    told = await desk.told()
    await desk.look(minutes=1, full=True)
    assert await desk.told() == told
    desk.webex.set_status("partner", "pending")
    desk.webex.set_status("rival", "pending")
    for _ in range(3):
        await desk.look(minutes=61, full=True)
        desk = await desk.restarted()

    assert acted(desk) == ["partner", "rival"]
    assert desk.ledger.series(desk.place, SERIES).registrants["partner"].human
    assert (await desk.told())[len(told) :] == [("partner", "cancelled"), ("rival", "cancelled")]


async def test_a_released_one_who_is_approved_again_may_be_put_back_again(desk: Desk) -> None:
    """A release counts once: the next word of a person binds the policy as the first did."""
    await desk.look()
    desk.webex.set_status("partner", "pending")
    await release(desk, "partner")
    await desk.look(minutes=1, full=True)
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=61, full=True)
    await desk.look(minutes=61, full=True)

    assert acted(desk) == ["partner", "rival", "partner"]
    assert (await desk.told())[-1] == ("partner", "cancelled")


async def test_what_was_read_before_a_release_does_not_count_as_seen_after_it(desk: Desk) -> None:
    """A look under way has a list from before: it leaves the released one to the look that the order asks for."""
    await desk.look()
    listed = desk.webex.list_registrants

    async def release_meanwhile(*given: Any, **more: Any) -> list[registrants.Registrant]:
        found = await listed(*given, **more)
        desk.webex.set_status("partner", "pending")
        await release(desk, "partner")
        return found

    desk.webex.list_registrants = release_meanwhile  # type: ignore[method-assign]
    await desk.look(minutes=1, full=True)
    desk.webex.list_registrants = listed  # type: ignore[method-assign]
    await desk.look(minutes=1, full=True)

    assert acted(desk) == ["partner", "rival", "partner"]


async def test_a_commands_cancel_after_a_release_is_not_released(desk: Desk) -> None:
    """It binds the policy, although nobody looked in between."""
    await desk.look()
    await release(desk, "partner")
    told_by_command(
        desk, "cancel", "partner", Entry(kind="human", subject=SERIES, registrant="partner", value=Fact(at=START))
    )
    desk.webex.set_status("partner", "pending")
    await desk.look(minutes=1, full=True)
    await desk.look(minutes=61, full=True)

    assert acted(desk) == ["partner", "rival"]


# --- places ---------------------------------------------------------------------------------------------------------------

FIRST_COME = "version: 1\ndefault: approve\nrules: []\n"


async def waiting_line(desk: Desk, *, places: int, people: int) -> None:
    """``people`` register one after another for a meeting with so many ``places``; the policy approves everybody."""
    desk.webex.people.clear()
    desk.webex.fields["registration"] = {"maxRegisterNum": places}
    for n in range(people):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=9 - n))
    desk.policy = policy.parse(FIRST_COME)
    await desk.look()


async def test_whoever_finds_no_place_waits(desk: Desk) -> None:
    """An approval beyond the capacity is a place on the waitlist, said once, with the reason."""
    await waiting_line(desk, places=2, people=4)
    await desk.look(minutes=1)
    await desk.look(minutes=61, full=True)

    assert acted(desk) == ["p0", "p1"]
    waits = [fact.data for fact in await desk.facts() if fact.type == "webex.registrant.waitlisted.v1"]
    assert [one["id"] for one in waits] == ["p2", "p3"]
    assert "no place is free" in waits[0]["decision"]["reason"]
    assert desk.observer.decisions == {"approve": 2, "waitlist": 2}


async def test_a_call_that_fails_lets_nobody_overtake(desk: Desk) -> None:
    """Who was told to wait, because older ones were to be approved, does not take their places when that call failed."""
    desk.webex.failures["change_status"] = [WebexUnavailable("no", status=503)]
    with pytest.raises(WebexUnavailable):
        await waiting_line(desk, places=2, people=4)
    await desk.look(minutes=1, full=True)
    assert acted(desk)[-2:] == ["p0", "p1"]
    assert {id_ for id_, one in desk.webex.people.items() if one.status == "approved"} == {"p0", "p1"}


async def test_nobody_is_told_to_wait_for_places_that_nobody_has(desk: Desk) -> None:
    """While writes are stopped, approvals that are not carried out fill no meeting."""
    await desk.obey(Entry(kind="paused", subject="default", value=Fact(at=desk.now)))
    await waiting_line(desk, places=2, people=4)
    await desk.look(minutes=5, full=True)
    assert "waitlisted" not in [what for _, what in await desk.told()]
    await desk.obey(Entry(kind="paused", subject="default", value=None))
    await desk.look(minutes=5, full=True)
    assert [id_ for id_, what in await desk.told() if what == "waitlisted"] == ["p2", "p3"]


async def test_a_place_that_becomes_free_is_for_whoever_waited_longest(desk: Desk) -> None:
    """After a cancellation the oldest registration on the waitlist is approved, also by the next process."""
    await waiting_line(desk, places=2, people=5)
    desk.webex.set_status("p0", "pending")
    desk = await desk.restarted()
    await desk.look(minutes=61, full=True)
    assert acted(desk) == ["p0", "p1", "p2"]

    desk.webex.fields["registration"] = {"maxRegisterNum": 3}
    await desk.look(minutes=1)
    assert acted(desk) == ["p0", "p1", "p2", "p3"]


async def test_newcomers_never_overtake_those_who_wait(desk: Desk) -> None:
    """Where a place is free and somebody waits whom the incremental list does not show, everybody is looked at."""
    await waiting_line(desk, places=2, people=4)
    desk.now += timedelta(minutes=60)
    desk.webex.register("late", at=desk.now)
    desk.webex.fields["registration"] = {"maxRegisterNum": 3}
    await desk.look()
    assert acted(desk) == ["p0", "p1", "p2"]

    before = len(desk.webex.made("list_registrants"))
    await desk.look(minutes=1)
    assert None not in desk.webex.made("list_registrants")[before:]


@pytest.mark.parametrize("registration", [{}, {"maxRegisterNum": 100}])
async def test_a_rules_own_waitlist_does_not_make_every_look_a_full_one(
    desk: Desk, registration: dict[str, int]
) -> None:
    """Who waits by the rules' word is decided again by another version, not whenever a newcomer is approved."""
    desk.webex.fields["registration"] = registration
    partners = "rules:\n  - {name: p, when: registrant.emailDomain in lists.partners, then: approve}\n"
    waiting = f"version: 1\ndefault: waitlist\nlists: {{partners: [example.org]}}\n{partners}"
    desk.policy = policy.parse(waiting)
    await desk.look()
    for n in range(6):
        desk.webex.register(f"later{n}", at=desk.now + timedelta(hours=1))
        desk.webex.register(f"waits{n}", email=f"waits{n}@example.com", at=desk.now + timedelta(hours=1))
        await desk.look(minutes=60)

    assert desk.webex.made("list_registrants").count(None) == 1
    assert acted(desk) == ["partner", *(f"later{n}" for n in range(6))]

    desk = await desk.restarted()
    await desk.look(minutes=60)
    assert desk.webex.made("list_registrants").count(None) == 2  # once: what was weighed is not in the ledger
    await desk.look(minutes=60)
    assert desk.webex.made("list_registrants").count(None) == 2


async def test_whoever_begins_to_wait_for_a_place_is_not_overtaken(desk: Desk) -> None:
    """Also where others waited by a rule's word before, while places were free."""
    rule = "rules:\n  - {name: r, when: registrant.emailDomain in lists.rivals, then: waitlist}\n"
    desk.policy = policy.parse(f"version: 1\ndefault: approve\nlists: {{rivals: [rival.example]}}\n{rule}")
    desk.webex.fields["registration"] = {"maxRegisterNum": 4}
    await desk.look()
    for id_ in ("third", "fourth", "waits", "also"):
        desk.now += timedelta(minutes=60)
        desk.webex.register(id_, at=desk.now)
        await desk.look()
    assert desk.webex.made("list_registrants").count(None) == 1
    assert acted(desk) == ["partner", "unknown", "third", "fourth"]

    told_by_command(
        desk, "cancel", "fourth", Entry(kind="human", subject=SERIES, registrant="fourth", value=Fact(at=START))
    )
    desk.webex.set_status("fourth", "pending")
    desk.now += timedelta(minutes=1)
    desk.webex.register("late", at=desk.now)
    await desk.look()  # learns of the free place by asking for the fourth

    assert acted(desk)[4:] == ["waits"]


async def test_a_rule_that_counts_is_asked_again_where_fewer_are_approved(desk: Desk) -> None:
    """Its own waitlist is a line too: a newcomer does not take what became free for somebody who waits."""
    desk.webex.people.clear()
    desk.policy = policy.parse(
        "version: 1\ndefault: waitlist\nrules:\n  - {name: two, when: counts.approved < 2, then: approve}\n"
    )
    for n in range(3):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=9 - n))
    desk.webex.register("p3", at=START)
    desk.webex.set_status("p3", "approved")
    await desk.look()
    assert acted(desk) == ["p0"]
    desk.webex.set_status("p3", "pending")  # a host; a list of the newest shows it
    desk.webex.register("late", at=START + timedelta(minutes=1))
    await desk.look(minutes=2)

    assert acted(desk) == ["p0", "p1"]


# --- trying -----------------------------------------------------------------------------------------------------------------


async def test_a_shadow_only_says_what_it_would_do(desk: Desk) -> None:
    """Once for each version: no intent, no write, and what the policy would do about everybody."""
    desk.policy = policy.parse(POLICY + "shadow: true\n")
    await desk.look()
    await desk.look(minutes=61, full=True)

    proposed = [fact.data for fact in await desk.facts() if fact.type == "webex.registrant.proposed.v1"]
    assert {one["id"]: one["decision"]["outcome"] for one in proposed} == {
        "partner": "approve", "rival": "reject", "unknown": "hold",
    }  # fmt: skip
    assert (len(proposed), acted(desk)) == (3, [])
    assert "intent" not in await desk.ledger_kinds()


async def crowd_held(desk: Desk, *, people: int = 40) -> None:
    """So many partners are held by a policy without rules; then a policy that approves partners replaces it."""
    desk.policy = policy.parse("version: 1\nrules: []\n")
    desk.webex.fields["registration"] = {}
    for n in range(people):
        desk.webex.register(f"p{n}", at=START - timedelta(days=2))
    await desk.look()
    desk.policy = policy.parse(POLICY)


async def test_a_new_version_that_would_change_much_is_held_until_it_is_confirmed(desk: Desk) -> None:
    """It decides nobody, newcomers neither, also after a restart; with an operator's word it does what it says."""
    await crowd_held(desk)
    with capture_logs() as logs:
        looked = await desk.look(minutes=1)
    (held,) = [line for line in logs if line["event"] == "policy.held"]
    assert (held["version"], held["changes"]) == (desk.policy.version, 42)
    assert held["confirm"] == f"webex-events policy confirm {desk.policy.version}"
    assert (looked.stopped, looked.again, acted(desk)) == ("policyHeld", False, [])

    desk = await desk.restarted()
    desk.webex.register("late", at=desk.now)
    desk.webex.register("later", email="later@example.com", at=desk.now)
    with capture_logs() as logs:
        assert (await desk.look(minutes=61)).stopped == "policyHeld"
    assert "policy.held" not in [line["event"] for line in logs]
    assert (await desk.told())[-2:] == [("late", "registered"), ("later", "registered")]
    assert desk.webex.made("list_registrants")[-1] is not None

    record = desk.ledger.partition(desk.place).policies["default"]
    await desk.obey(Entry(kind="policy", subject="default", value=trial.confirmed(record, desk.policy.version)))
    await desk.look(minutes=1)
    assert len(acted(desk)) == 43


async def test_a_new_version_that_changes_little_goes_on(desk: Desk) -> None:
    """A fifth of a meeting may change; newcomers are nobody's change; after an hour the version is accepted."""
    await crowd_held(desk, people=2)
    for n in range(17):
        desk.webex.register(f"known{n}", email=f"known{n}@example.com", at=START - timedelta(days=2), status="approved")
    for n in range(30):
        desk.webex.register(f"new{n}", at=START)
    looked = await desk.look(minutes=1)

    assert (looked.stopped, len(acted(desk))) == ("", 34)
    record = desk.ledger.partition(desk.place).policies["default"]
    assert (record.trial, record.changed) == (desk.policy.version, 4)
    await desk.look(minutes=61)
    assert desk.ledger.partition(desk.place).policies["default"] == PolicyRecord(accepted=desk.policy.version)


async def test_the_first_version_may_change_everything(desk: Desk) -> None:
    """Until there is a policy everybody is held; the first one replaces none."""
    desk.policy = policy.HOLD_EVERYTHING
    await desk.look()
    desk.policy = policy.parse(POLICY)
    looked = await desk.look(minutes=1)

    assert (looked.stopped, acted(desk)) == ("", ["partner", "rival"])


async def test_the_first_version_in_force_may_change_everything(desk: Desk) -> None:
    """One that was only tried before replaced nothing; so it is no other version that goes live."""
    desk.policy = policy.parse(POLICY + "shadow: true\n")
    await desk.look()
    assert desk.ledger.partition(desk.place).policies == {}
    desk.policy = policy.parse(POLICY)
    looked = await desk.look(minutes=1)

    assert (looked.stopped, acted(desk)) == ("", ["partner", "rival"])
    assert desk.ledger.partition(desk.place).policies == {"default": PolicyRecord(accepted=desk.policy.version)}


async def test_the_parts_of_a_refused_batch_change_no_more_than_the_batch(desk: Desk) -> None:
    """What a version on trial changes is counted once, however many calls it takes."""
    await crowd_held(desk, people=3)
    for n in range(30):
        desk.webex.register(f"known{n}", email=f"known{n}@example.com", at=START - timedelta(days=2), status="approved")
    desk.webex.refusing["p1"] = 400
    await desk.look(minutes=1)

    assert len(desk.webex.made("change_status")) > 2
    assert desk.ledger.partition(desk.place).policies["default"].changed == 5


async def test_a_version_that_is_held_meanwhile_decides_nobody_more(desk: Desk) -> None:
    """Although what is left of a look that began before are newcomers, who are nobody's change."""
    await desk.look()
    desk.policy = policy.parse(POLICY.replace("A partner", "Partners"))
    desk.webex.register("late", at=desk.now)
    desk.webex.register("later", email="later@rival.example", at=desk.now)
    change_status = desk.webex.change_status

    async def held_meanwhile(*given: Any, **more: Any) -> None:
        record = desk.ledger.partition(desk.place).policies["default"]
        await desk.obey(Entry(kind="policy", subject="default", value=structs.replace(record, held="another meeting")))
        await change_status(*given, **more)

    desk.webex.change_status = held_meanwhile  # type: ignore[method-assign]

    assert (await desk.look(minutes=1)).stopped == "policyHeld"
    assert acted(desk) == ["partner", "rival", "late"]


async def test_many_small_meetings_make_a_large_change(desk: Desk) -> None:
    """More than 500 of the organisation within an hour are too many, although each meeting changes little."""
    await crowd_held(desk, people=30)
    for n in range(200):
        desk.webex.register(f"known{n}", at=START - timedelta(days=2), status="approved")
    record = PolicyRecord(accepted="other", trial=desk.policy.version, since=START, hour=START, changed=480)
    await desk.obey(Entry(kind="policy", subject="default", value=record))
    looked = await desk.look(minutes=1)

    assert (looked.stopped, acted(desk)) == ("policyHeld", [])


# --- not writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(kind="paused", subject="default", value=Fact(at=START)), "paused"),
        (Entry(kind="observing", subject="0", value=Fact(at=START)), "observeOnly"),
    ],
)
async def test_while_nothing_may_be_written_everything_is_observed(desk: Desk, entry: Entry, reason: str) -> None:
    """Facts are published, no intent is written, looks stay incremental; afterwards what waited is done at once."""
    await desk.obey(entry)
    looked = await desk.look()
    desk.webex.register("late", at=desk.now)
    await desk.look(minutes=1)

    assert (looked.stopped, looked.again, acted(desk)) == (reason, False, [])
    assert [id_ for id_, what in await desk.told() if what == "registered"] == ["partner", "rival", "unknown", "late"]
    assert "intent" not in await desk.ledger_kinds()
    assert None not in desk.webex.made("list_registrants")[1:]

    await desk.obey(structs.replace(entry, value=None))
    await desk.look(minutes=1)
    assert sorted(acted(desk)) == ["late", "partner", "rival"]


@pytest.mark.parametrize("stop", ["paused", "observeOnly", "policyHeld", "paused in the file"])
async def test_whatever_stops_it_what_people_do_is_published(desk: Desk, stop: str) -> None:
    """Approvals, cancellations, changes, deletions and newcomers; nothing is written to Webex."""
    await desk.look()
    match stop:
        case "paused":
            await desk.obey(Entry(kind="paused", subject="default", value=Fact(at=START)))
        case "observeOnly":
            await desk.obey(Entry(kind="observing", subject="0", value=Fact(at=START)))
        case "policyHeld":
            desk.policy = policy.parse(POLICY.replace("A partner", "Partners"))
            record = PolicyRecord(accepted="other", trial=desk.policy.version, since=START, hour=START, held="much")
            await desk.obey(Entry(kind="policy", subject="default", value=record))
        case _:
            desk.policy = policy.parse(POLICY + "paused: true\n")
    before = len(await desk.told())
    desk.webex.set_status("unknown", "approved")
    desk.webex.set_status("partner", "pending")
    desk.webex.delete("rival")
    desk.webex.register("late", at=desk.now)
    looked = await desk.look(minutes=1, full=True)
    desk.webex.update("late", companyName="Example")
    await desk.look(minutes=1)

    assert looked.stopped == stop.split()[0]
    assert sorted((await desk.told())[before:]) == [
        ("late", "registered"), ("late", "updated"), ("partner", "cancelled"), ("rival", "deleted"), ("unknown", "approved"),
    ]  # fmt: skip
    assert acted(desk) == ["partner", "rival"]


async def test_a_policy_that_is_replaced_meanwhile_decides_nobody_more(desk: Desk) -> None:
    """What the old version wanted of the second batch is not done any more: the operator had a reason."""

    def replace_after_the_first(message: Message) -> bool:
        if '"unsettled":true' in (message.value or b"").decode():
            desk.policy = policy.parse("version: 1\nrules: []\n")
        return False

    desk.publisher.refuse = replace_after_the_first
    looked = await desk.look()

    assert (acted(desk), looked.again) == (["partner"], True)
    await desk.look(minutes=1)
    assert acted(desk) == ["partner"]


# --- what a look costs and remembers ------------------------------------------------------------------------------------------


async def test_one_newcomer_after_a_rush_costs_four_calls(desk: Desk) -> None:
    """Although thousands registered within the quarter of an hour that a look goes back, one page is read."""
    desk.webex.people.clear()
    desk.webex.fields["registration"] = {}
    for n in range(300):
        desk.webex.register(f"p{n}", at=START - timedelta(seconds=300 - n))
    await desk.look()
    desk.now += timedelta(seconds=5)
    desk.webex.register("late", at=desk.now)
    before = len(desk.webex.calls)
    looked = await desk.look()

    assert [name for name, _ in desk.webex.calls[before:]] == [
        "get_meeting", "list_registrants", "change_status", "query_registrants",
    ]  # fmt: skip
    assert (looked.decided, looked.registrants <= 100) == (1, True)


async def test_after_a_rush_a_look_goes_back_as_far_as_it_should_in_time(desk: Desk) -> None:
    """Whoever Webex showed late during a rush is found within a quarter of an hour."""
    desk.webex.people.clear()
    desk.webex.fields["registration"] = {}
    for n in range(300):
        desk.webex.register(f"p{n}", at=START - timedelta(seconds=300 - n))
    await desk.look()
    desk.webex.register("hidden", at=START - timedelta(seconds=290))
    for _ in range(14):
        await desk.look(minutes=1)
    assert "hidden" not in acted(desk)
    await desk.look(minutes=1)

    assert "hidden" in acted(desk)
    assert desk.webex.made("list_registrants")[1:].count(None) == 0


async def rush(desk: Desk) -> None:
    """Three hundred registered within five minutes, and a look saw them."""
    desk.webex.people.clear()
    desk.webex.fields["registration"] = {}
    for n in range(300):
        desk.webex.register(f"p{n}", at=START - timedelta(seconds=300 - n))
    await desk.look()


async def begins(desk: Desk) -> timedelta:
    """How far before the newest registration the next look begins."""
    await desk.look(minutes=0.1)
    since: datetime = desk.webex.made("list_registrants")[-1]
    return START - timedelta(seconds=1) - since


async def test_what_a_process_knows_between_looks_goes_with_its_partition(desk: Desk) -> None:
    """Then the next look costs more, as that of a new process does; other partitions keep theirs."""
    await rush(desk)
    assert await begins(desk) < timedelta(minutes=1)
    desk.controller.forget(7)
    assert await begins(desk) < timedelta(minutes=1)
    desk.controller.forget(0)
    assert await begins(desk) == timedelta(minutes=15)


async def test_what_a_process_knows_between_looks_goes_with_its_series(desk: Desk) -> None:
    """What the ledger forgets for good is forgotten here too, when other series are looked at."""
    await rush(desk)
    meeting = desk.ledger.series(desk.place, SERIES).meeting
    await desk.obey(*tombstones(SERIES, desk.ledger.series(desk.place, SERIES)))
    other = Task(place=desk.place, series="6" * 32)
    for _ in range(3):
        await desk.controller.look(other, await desk.webex.get_meeting(other.series))
    await desk.obey(Entry(kind="meeting", subject=SERIES, value=meeting))

    assert await begins(desk) == timedelta(minutes=15)


async def test_what_is_known_of_series_in_the_ledger_is_kept(desk: Desk) -> None:
    """However many others are looked at."""
    await rush(desk)
    for n in range(6):
        other = Task(place=desk.place, series=str(n) * 32)
        await desk.obey(Entry(kind="meeting", subject=other.series, value=KnownMeeting(organization="default")))
        await desk.controller.look(other, await desk.webex.get_meeting(other.series))

    assert await begins(desk) < timedelta(minutes=1)


async def test_what_a_first_look_learned_is_kept_whatever_began_meanwhile(desk: Desk) -> None:
    """Its series is in the ledger only when it ends."""
    listed = desk.webex.list_registrants

    async def others_meanwhile(*given: Any, **more: Any) -> list[registrants.Registrant]:
        desk.webex.list_registrants = listed  # type: ignore[method-assign]
        for n in range(3):
            other = Task(place=desk.place, series=str(n) * 32)
            await desk.controller.look(other, await desk.webex.get_meeting(other.series))
        return await listed(*given, **more)

    desk.webex.list_registrants = others_meanwhile  # type: ignore[method-assign]
    await rush(desk)

    assert await begins(desk) < timedelta(minutes=1)


async def test_a_look_remembers_what_the_schedule_goes_by(desk: Desk) -> None:
    """When the meeting is, and when something new was last seen."""
    desk.webex.fields |= {"start": "2026-03-05T10:00:00Z", "end": "2026-03-05T11:00:00Z", "recurrence": "FREQ=DAILY"}
    await desk.look()
    desk.policy = policy.parse(POLICY + "shadow: true\n")
    await desk.look(minutes=5, full=True)
    known = desk.ledger.series(desk.place, SERIES).meeting

    assert known is not None
    assert (known.active, known.start, known.end, known.recurring) == (
        START,
        START + timedelta(days=3, hours=22),
        START + timedelta(days=3, hours=23),
        True,
    )


async def test_whom_no_webhook_told_of_is_counted(desk: Desk) -> None:
    """Those whom the schedule found, or whom a hint found long after they registered; nobody at first sight."""
    await desk.look()
    assert desk.observer.found == {}
    desk.webex.register("found", at=desk.now)
    await desk.look(minutes=1, swept=True)
    desk.webex.register("late", at=desk.now - timedelta(minutes=14))
    desk.now += timedelta(minutes=5)
    desk.webex.register("hinted", at=desk.now)
    await desk.look()

    assert desk.observer.found == {"registrant": 2}


async def test_a_look_at_thousands_leaves_others_their_turn(desk: Desk) -> None:
    """While thousands are looked at, whatever else runs in the process goes on, also where there is nothing to write."""
    desk.webex.fields["registration"] = {}
    desk.policy = policy.parse("version: 1\nrules: []\n")
    for n in range(3000):
        desk.webex.register(f"p{n}", at=START - timedelta(hours=1))
    await desk.look()
    turns, looking = 0, asyncio.create_task(desk.look(full=True))
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns > 12
    assert (await looking).registrants == 3003


async def test_no_write_holds_thousands_of_events(desk: Desk) -> None:
    """Facts are published a few hundred at a time."""
    sizes = []
    for n in range(1000):
        desk.webex.register(f"p{n}", email=f"p{n}@example.com", at=START - timedelta(hours=1))
    publish = desk.publisher.publish

    async def measured(messages: Sequence[Message]) -> None:
        sizes.append(len(messages))
        await publish(messages)

    desk.publisher.publish = measured  # type: ignore[method-assign]
    await desk.look()

    assert max(sizes) <= 3 * CHUNK


async def test_whoever_was_deleted_is_no_registrant_of_the_meeting(desk: Desk) -> None:
    """A fifth is meant of those who are there."""
    await crowd_held(desk, people=8)
    for n in range(31):
        desk.webex.register(f"known{n}", email=f"known{n}@example.com", at=START - timedelta(days=2), status="approved")
    seen = Seen(status="deleted", facts=2)
    await desk.obey(*(Entry(kind="seen", subject=SERIES, registrant=f"gone{n}", value=seen) for n in range(99)))

    assert (await desk.look(minutes=1)).stopped == "policyHeld"
