"""What the matrix of faults makes of a report, and where it puts it; the cells themselves are `make faults`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from service.bus.journal import Journal
from service.core.errors import BadSignature
from service.core.message import Message
from service.core.notification import accept
from service.core.signature import verify
from tests.faults.__main__ import scenarios
from tests.faults.cells import BEGIN, CELLS, END, HEADINGS, Result, recovers_within_20_s, row, table, write
from tests.faults.history import Fault, Kafka, Post
from tests.faults.invariants import Bounds, check
from tests.faults.left_behind import ids_in_journal
from tests.faults.reading import TOPICS, Reader
from tests.faults.sender import FORGED, Notice, Notices

RESULT = Result(
    name="leader-kill", posted=9796, accepted=9796, duplicates=3, gap=2.04, p50=0.023, p99=1.5, longest=2.1, stall=3.3
)


def test_a_row_has_a_figure_for_each_heading() -> None:
    """Seconds and milliseconds as people read them."""
    assert row(RESULT) == (
        "leader-kill",
        "9796",
        "9796",
        "0",
        "0",
        "3",
        "0",
        "2.0 s",
        "23 ms / 1.5 s / 2.1 s",
        "3.3 s",
        "never",
        "ok",
    )
    assert len(row(RESULT)) == len(row(Result(name="x", problems=("did not start",)))) == len(HEADINGS)


def test_a_problem_makes_it_red() -> None:
    """Whatever the figures are."""
    assert row(msgspec.structs.replace(RESULT, problems=("lost: 1",)))[-1] == "**red**"


def test_the_table_replaces_what_stood_between_the_markers(tmp_path: Path) -> None:
    """And nothing else; a document without them is an error."""
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    made = table([RESULT], command="make faults", commit="abc", now=datetime(2026, 11, 21, tzinfo=UTC))

    write(document, made)
    write(document, made)

    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n2026-11-21, commit abc, ")
    assert text.endswith(f"| ok |\n{END}\nafter\n")
    assert text.count("leader-kill") == 1
    document.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        write(document, made)


@pytest.mark.parametrize(("stalls", "red"), [([3.0] * 20, 0), ([3.0] * 18 + [25.0, 25.0], 1), ([3.0] * 19 + [31.0], 1)])
def test_recovery_has_its_bounds(stalls: list[float], red: int) -> None:
    """20 s for 95 % of the kills, 30 s for each."""
    assert len(list(recovers_within_20_s(check(history(stalls), Bounds(tail=0.0))))) == red


def history(stalls: list[float]) -> list[Post | Kafka | Fault]:
    """A kill every 100 s, after which Kafka writes nothing for so long, and otherwise four records a second."""
    lines: list[Post | Kafka | Fault] = []
    offset = 0
    for n, stall in enumerate(stalls):
        begin = 100.0 * (n + 1)
        lines += [
            Fault(at=begin, wall=begin, name=f"kill {n}", phase="begin"),
            Fault(at=begin + 50, wall=begin + 50, name=f"kill {n}", phase="end"),
        ]
        for tick in range(400):
            at = begin - 50 + tick / 4
            if not begin < at < begin + stall:
                lines.append(
                    Kafka(at=at, wall=at, partition=0, offset=offset, id="a", key="k", ctr=offset, appended=at)
                )
                offset += 1
    return [
        msgspec.structs.replace(line, id=str(n)) if isinstance(line, Kafka) else line for n, line in enumerate(lines)
    ]


def test_what_the_issue_names_is_a_cell() -> None:
    """Leader, follower and controller, each with four faults; and those of the quick run are among the cells."""
    each = {
        f"{who}-{what}" for who in ("leader", "follower", "controller") for what in ("term", "kill", "stop", "bounces")
    }
    others = {"two-down", "all-down", "responses-lost", "leader-slow", "loss", "twenty-kills", "more-partitions"}

    assert each | others <= CELLS.keys()
    assert {name for name, cell in CELLS.items() if cell.quick} >= {
        "leader-kill",
        "follower-stop",
        "all-down",
        "responses-lost",
    }


def test_every_scenario_of_the_folder_is_run() -> None:
    """Each file in the whole run, which has the cells in its matrix; in the quick one those that mark something as quick."""
    folder = {path.name for path in Path(__file__).parent.joinpath("faults").glob("test_*.py")}

    assert folder > {scenario[0] for scenario in scenarios(quick=True)} > {"test_cells.py", "test_kill.py"}
    assert {scenario[0] for scenario in scenarios(quick=False)} == folder - {"test_cells.py"}
    assert all("quick" in scenario for scenario in scenarios(quick=True))


# --- what the sender puts in comes out --------------------------------------------------------------------------------

SECRET = "rig-secret"


def sent(count: int) -> list[Notice]:
    """What the sender would send."""
    notices = Notices(secret=SECRET, keys=5, seed=1)
    return [notices.next() for _ in range(count)]


def published(notice: Notice) -> tuple[Message, ...]:
    """What the product makes of it."""
    return accept(notice.body, received=datetime(2026, 11, 21, tzinfo=UTC), receiver="r").messages


def test_the_reader_knows_every_event_and_hint_again() -> None:
    """Id, key and number of each kind, on exactly the topics that the sender names."""
    notices = sent(300)
    posts = [
        Post(id=each.id, key=each.key, ctr=each.ctr, status=204, t0=0.0, t1=0.0, topics=each.topics, event=each.event)
        for each in notices
    ]
    reader = Reader("nowhere:9092", "rig.", posts)
    met = set()
    for notice in notices:
        messages = published(notice)
        assert tuple(message.topic for message in messages) == notice.topics
        for message in messages:
            met.add(message.topic)
            found = reader.rigs_own(message.topic, message.key, json.loads(message.value or b""))
            assert found == (notice.id, notice.key, notice.ctr, "2026-11-21T00:00:00.000Z")
    assert met == set(TOPICS) - {"dead-letters"}


async def test_what_stands_in_the_journal_is_found_there(tmp_path: Path) -> None:
    """Every kind of event, and a hint whose event is elsewhere; not what was removed."""
    notices = sent(300)
    kept, gone = notices[:200], notices[200:]
    async with await Journal.open(tmp_path / "journal") as journal:
        for number, notice in enumerate(notices):
            which = published(notice)[-1:] if number % 2 else published(notice)
            await journal.append([("kept" if notice in kept else "gone", message) for message in which])
        await journal.trim("gone", (await journal.bounds("gone"))[1])

    found = ids_in_journal(tmp_path / "journal")

    assert [notice.id for notice in kept if not {notice.id, notice.event} & found] == []
    assert [notice.id for notice in gone if {notice.id, notice.event} & found] == []


def test_one_in_a_hundred_is_forged() -> None:
    """The others bear the secret's signature."""
    refused = 0
    for notice in sent(3 * FORGED):
        try:
            headers = [(name.encode(), value.encode()) for name, value in notice.headers.items()]
            verify(notice.body, headers, secrets=[SECRET.encode()])
        except BadSignature:
            refused += 1
    assert refused == 3
