"""Orders at the command line, and a process that obeys them: what the command says is what the ledger says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher, JournalReader
from service.cli.buses import embedded_bus
from service.cli.shutdown import Stop
from service.controllers.backlog import Backlog
from service.controllers.ledger import Ledger
from service.controllers.orders import Orders
from service.controllers.sweep import Intervals, Sweep
from service.core import ledger, work
from service.core.ledger import Entry, Fact, Intent, KnownMeeting, PolicyRecord, Seen
from service.core.message import Message
from service.core.work import Order
from tests.bus.behaviour import Listener
from tests.cli.program import invoke, refusal
from tests.cli.records import on, put
from tests.cli.test_bus_client import listening, settings_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIES = "5" * 32
VERSION = "0123456789ab"
SECOND = "11111111-2222-4333-8444-555555555555"
TWO = {
    "WEBEX__TOKEN": "t",
    "WEBEX__ORGANIZATION_ID": "22222222-2222-4333-8444-555555555555",
    "WEBEX__ORGANIZATIONS__EMEA__ID": SECOND,
    "WEBEX__ORGANIZATIONS__EMEA__TOKEN": "u",
}


class Owner:
    """A process that has the journal, and obeys."""

    def __init__(self, journal: Journal, restored: Ledger, folder: Path) -> None:
        self.journal, self.ledger, self._folder = journal, restored, folder
        self.orders: list[Order] = []
        self._consumer = JournalConsumer(journal, topic="work", group="g")

    async def remember(self, *entries: Entry, organization: str = "default") -> None:
        """What its ledger says."""
        await self.ledger.record(self.ledger.place(organization, 0), entries)

    async def obey(self) -> None:
        """For ever."""
        backlog, hour = Backlog(), timedelta(hours=1)
        sweep = Sweep(ledger=self.ledger, backlog=backlog, intervals=Intervals(hour, hour), now=lambda: NOW)
        orders = Orders(ledger=self.ledger, backlog=backlog, sweep=sweep, now=lambda: NOW)
        await self._consumer.start(Listener())
        while True:
            for record in await self._consumer.poll():
                item = work.decode(record.value or b"")
                assert isinstance(item, Order)
                self.orders.append(item)
                await orders.obey(self.ledger.place(item.organization, 0), item)

    async def told(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
        """A command in another process."""
        given = {"JOURNAL__PATH": str(self._folder), **settings}
        return await asyncio.to_thread(invoke, *arguments, folder=self._folder, settings=given)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """One that has nothing to remember yet."""
    settings, stop = settings_of(tmp_path), Stop()
    async with (
        await Journal.open(tmp_path) as journal,
        embedded_bus(settings, journal, stop=stop) as bus,
        listening(settings, bus, stop),
    ):
        restored = Ledger(reader=JournalReader(journal), publisher=JournalPublisher(journal))
        await restored.restore(0)
        one = Owner(journal, restored, tmp_path)
        obeying = asyncio.create_task(one.obey())
        yield one
        obeying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await obeying


async def test_pause_and_resume(owner: Owner) -> None:
    """Said when it is so."""
    done = await owner.told("pause")
    assert (done.returncode, done.stdout) == (0, b"Nothing is written to Webex any more (default).\n")
    assert owner.ledger.partition(owner.ledger.place("default", 0)).paused == {"default": Fact(at=NOW)}

    done = await owner.told("resume")
    assert done.returncode == 0
    assert owner.ledger.partition(owner.ledger.place("default", 0)).paused == {}


async def test_every_organisation_is_paused_or_the_one_that_is_named(owner: Owner) -> None:
    """By its name in the settings, or its id."""
    assert (await owner.told("pause", **TWO)).returncode == 0
    for name in ("emea", SECOND):
        assert (await owner.told("resume", "--organization", name, **TWO)).returncode == 0
    done = await owner.told("resume", "--organization", "apac", **TWO)

    assert "default" in refusal(done, 2)[-1]
    assert [(order.verb, order.organization) for order in owner.orders] == [
        ("pause", "default"),
        ("pause", SECOND),
        ("resume", SECOND),
        ("resume", SECOND),
    ]
    assert set(owner.ledger.partition(owner.ledger.place("default", 0)).paused) == {"default"}


async def test_a_version_is_confirmed(owner: Owner) -> None:
    """The one on trial; of another one it is said which that is, and nothing is ordered."""
    held = PolicyRecord(accepted="0" * 12, trial=VERSION, held="too many")
    await owner.remember(Entry(kind="policy", subject="default", value=held))
    wrong = await owner.told("policy", "confirm", "f" * 12, "--wait", "0.6")
    assert refusal(wrong, 1) == [f"Version {'f' * 12} is not on trial; on trial is {VERSION} (default)."]
    done = await owner.told("policy", "confirm", VERSION)
    again = await owner.told("policy", "confirm", VERSION)

    assert done.returncode == 0
    assert refusal(again, 1) == [f"Version {VERSION} is not on trial; on trial is none (default)."]
    assert [order.policy for order in owner.orders] == [VERSION]
    policies = owner.ledger.partition(owner.ledger.place("default", 0)).policies
    assert policies["default"].accepted == VERSION
    assert policies["default"].held == ""


async def test_a_version_is_confirmed_where_it_is_on_trial(owner: Owner) -> None:
    """Of several organisations only the one that has it on trial is given the order."""
    held = PolicyRecord(accepted="0" * 12, trial=VERSION, held="too many")
    await owner.remember(Entry(kind="policy", subject=SECOND, value=held), organization=SECOND)
    done = await owner.told("policy", "confirm", VERSION, **TWO)

    assert (done.returncode, done.stdout.decode()) == (0, f"Version {VERSION} is confirmed ({SECOND}).\n")
    assert "on trial is none (default)" in done.stderr.decode()
    assert [order.organization for order in owner.orders] == [SECOND]


async def test_registrants_are_released(owner: Owner) -> None:
    """What was said of them until then does not bind any more."""
    intent = Intent(verb="approve", rule="r", reason="", notify=False, policy="v", at=NOW)
    await owner.remember(
        *(Entry(kind=kind, subject=SERIES, registrant="a", value=Fact(at=NOW)) for kind in ("approved", "human")),
        Entry(kind="intent", subject=SERIES, registrant="a", value=intent),
        Entry(kind="seen", subject=SERIES, registrant="a", value=Seen(status="pending", held="v")),
    )
    done = await owner.told("registrants", "release", SERIES, "a", "b", "a")

    said = b"The policy decides again about 2 registrants as soon as they are pending (default).\n"
    assert (done.returncode, done.stdout) == (0, said)
    memory = owner.ledger.series(owner.ledger.place("default", 0), SERIES).registrants["a"]
    assert (memory.intent, memory.approved, memory.human) == (None, False, False)


async def test_the_ledger_says_whose_the_meeting_is(owner: Owner) -> None:
    """Where there are several organisations, and none is named."""
    refusal(await owner.told("registrants", "release", SERIES, "a", **TWO), 1)
    known = KnownMeeting(organization=SECOND)
    await owner.remember(Entry(kind="meeting", subject=SERIES, value=known), organization=SECOND)
    done = await owner.told("registrants", "release", SERIES, "a", **TWO)

    assert done.returncode == 0
    assert [order.organization for order in owner.orders] == [SECOND]


async def test_a_lost_ledger_is_adopted(owner: Owner) -> None:
    """What somebody imported meanwhile is in memory then."""
    await owner.remember(Entry(kind="observing", subject="0", value=Fact(at=NOW)))
    human = Entry(kind="human", subject=SERIES, registrant="a", value=Fact(at=NOW))
    elsewhere = Ledger(reader=JournalReader(owner.journal), publisher=JournalPublisher(owner.journal))
    await elsewhere.restore(0)
    await elsewhere.record(elsewhere.place("default", 0), [human])
    done = await owner.told("ledger", "adopt", "--yes")

    assert (done.returncode, done.stdout) == (0, b"The ledger is adopted (default).\n")
    memory = owner.ledger.partition(owner.ledger.place("default", 0))
    assert (memory.observing, memory.founded) == (None, Fact(at=NOW))
    assert memory.series[SERIES].registrants["a"].human


def test_an_order_waits_for_a_processor(tmp_path: Path) -> None:
    """It is stored, and the command says that it is not so yet, whatever the ledger said before."""
    earlier = Entry(kind="paused", subject="default", value=Fact(at=NOW))
    put(tmp_path / "data", ledger.to_message(earlier, organization="default"))
    settings = {"JOURNAL__PATH": str(tmp_path / "data")}
    said = refusal(invoke("pause", "--wait", "0.6", folder=tmp_path, settings=settings), 4)
    assert "default" in said[0]
    assert invoke("pause", "--wait", "0", folder=tmp_path, settings=settings).returncode == 0

    orders = [json.loads(record.value or b"") for record in on(tmp_path / "data", "work")]
    assert [(order["kind"], order["verb"], order["organization"]) for order in orders] == [
        ("order", "pause", "default"),
        ("order", "pause", "default"),
    ]


@pytest.mark.parametrize(
    ("more", "wait", "code"),
    [
        pytest.param({}, "0.1", 4, id="nobody obeys"),
        pytest.param({}, "0", 0, id="nobody looks"),
        pytest.param({"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "0.1", 4, id="no bus"),
    ],
)
def test_the_quick_brake_is_named(tmp_path: Path, more: dict[str, str], wait: str, code: int) -> None:
    """Where the order may be long on its way, or never leaves; only for a pause."""
    put(tmp_path / "data", Message(topic="work", key="k", value=b"{}", partition_by="k"))
    settings = {"JOURNAL__PATH": str(tmp_path / "data"), "POLICY__FILE": "/etc/policy.yaml", **more}
    said = refusal(invoke("pause", "--wait", wait, folder=tmp_path, settings=settings), code)
    resumed = invoke("resume", "--wait", wait, folder=tmp_path, settings=settings)

    assert said[-1].startswith("The quick brake: `paused: true` in the policy file (/etc/policy.yaml) ")
    assert b"brake" not in resumed.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["policy", "confirm", "latest"],
        ["registrants", "release", "not-a-meeting", "a"],
        ["registrants", "release", SERIES],
        ["pause", "--wait", "-1"],
        ["registrants", "release", "", "a"],
        ["registrants", "release", SERIES, ""],
        ["registrants", "release", SERIES, "a b"],
        ["registrants", "release", SERIES, "a/b"],
        ["registrants", "release", SERIES, "a" * 257],
        ["policy", "confirm", ""],
        ["pause", "--wait", "nan"],
        ["pause", "--wait", "inf"],
        ["pause", "--wait", ""],
        ["pause", "--organization", "nobody"],
        ["pause", "--organization", ""],
    ],
    ids=lambda each: " ".join(each)[:60],
)
def test_wrong_usage_is_2(tmp_path: Path, wrong: list[str]) -> None:
    """And nothing is stored."""
    assert invoke(*wrong, folder=tmp_path).returncode == 2
    assert not (tmp_path / "data").exists()
