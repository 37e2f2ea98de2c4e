"""The checker of fault tests finds what it is there for: every check is seen red, and none is red without a cause.

It stands here, and not beside the checker, so that a plain run of all tests has it.
"""

from __future__ import annotations

import base64
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.history import (
    AnyLine,
    Commit,
    Effect,
    Fault,
    HistoryUnreadable,
    Journal,
    Kafka,
    Letter,
    Note,
    Post,
    Superseded,
    Writer,
    read,
)
from tests.faults.invariants import CHECKS, Bounds, check
from tests.faults.reading import Reader

#: Time of day minus monotonic time.
WALL = 1_000_000.0
BOUNDS = Bounds(duplicates=3, letters=20, unavailable=4, gap=20.0, effects=True)

Lines = list[AnyLine]
Kind = TypeVar("Kind", bound=AnyLine)


# --- a good history ---------------------------------------------------------------------------------------------------


def good(seed: int, count: int = 40) -> Lines:
    """A history in which all went well, though requests failed, events were repeated, set aside and superseded."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    posts = _posts(chance, count)
    stored = [post for post in posts if post.status == 204 or (post.status in (0, 503) and chance.random() < 0.5)]
    aside = {post.id for post in posts if post.status == 204 and chance.random() < 0.1}
    records = _records(chance, [post for post in stored if post.id not in aside])
    effects, superseded = _effects(chance, records)
    end = 0.25 * count + 100
    return [
        *posts,
        *records,
        *(_at(Letter(id=id_, reason="poison"), end) for id_ in sorted(aside)),
        *effects,
        *superseded,
        *(_at(Commit(partition=0, offset=n, lowest_unfinished=n + chance.randrange(3)), 50.0 + n) for n in range(5)),
        _at(Fault(name="kill", phase="begin", target="broker 1"), 2.0),
        _at(Fault(name="kill", phase="end", target="broker 1"), 4.0),
        _at(Note(name="load", value=1.5), end),
    ]


def _at(line: Kind, at: float) -> Kind:
    return msgspec.structs.replace(line, at=at, wall=at + WALL)


def _posts(chance: random.Random, count: int) -> list[Post]:
    """Four a second, of five keys; some are refused, four at most get neither 2xx nor 4xx."""
    counters: dict[str, int] = defaultdict(int)
    failed = chance.sample(range(5, count), 4)
    posts = []
    for n in range(count):
        key = f"key-{chance.randrange(5)}" if n >= 10 else f"key-{n % 5}"
        counters[key] += 1
        status = chance.choice((0, 503)) if n in failed else 401 if n >= 10 and chance.random() < 0.1 else 204
        t0 = 1.0 + n * 0.25
        t1 = t0 + chance.choice((0.01, 2.5))
        topics = ("meetings", "work") if chance.random() < 0.5 else ()
        made = Post(id=f"id-{n}", key=key, ctr=counters[key], status=status, t0=t0, t1=t1, due=t0, topics=topics)
        posts.append(_at(made, t1))
    return posts


def _records(chance: random.Random, posts: Sequence[Post]) -> list[Kafka]:
    """In the order of sending; three of them once more, later."""
    again = chance.sample(posts, 3)
    offsets: dict[tuple[str, int], int] = defaultdict(int)
    records = []
    for n, post in enumerate([*posts, *again]):
        for topic in post.topics or ("participants",):
            if n >= len(posts) and topic == "work":
                continue
            partition = int(post.key[-1]) % 2
            place = {"topic": topic, "partition": partition, "offset": offsets[topic, partition]}
            offsets[topic, partition] += 1
            made = msgspec.convert({**place, "id": post.id, "key": post.key, "ctr": post.ctr}, _Bare)
            records.append(_at(made.record(post.t0 + WALL), 90.0))
    seen = {(record.topic, record.id) for record in records}
    assert len(records) - len(seen) == 3
    return records


class _Bare(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    id: str
    key: str
    ctr: int

    def record(self, received: float) -> Kafka:
        return Kafka(**msgspec.structs.asdict(self), received=received, appended=received + 0.1)


def _effects(chance: random.Random, records: Sequence[Kafka]) -> tuple[list[Effect], list[Superseded]]:
    """One for each event, or none because a later one did its work; a throttled try and a repeated one change nothing."""
    effects: list[Effect] = []
    superseded = []
    clock = 20.0
    for id_, key in sorted({(record.id, record.key) for record in records}):
        if chance.random() < 0.1:
            superseded.append(_at(Superseded(id=id_), clock))
            continue
        if chance.random() < 0.3:
            effects.append(_effect(id_, key, clock, status=429, changed=False, retry_after=1.0))
            clock += 1.2
        effects.append(_effect(id_, key, clock))
        if chance.random() < 0.1:
            effects.append(_effect(id_, key, clock + 0.1, changed=False))
        clock += 0.25
    return effects, superseded


def _effect(
    id_: str, key: str, at: float, *, status: int = 204, changed: bool = True, retry_after: float = 0.0
) -> Effect:
    made = Effect(
        id=id_,
        key=key,
        call="approve",
        status=status,
        changed=changed,
        credential="token",
        retry_after=retry_after,
        t0=at,
        t1=at + 0.05,
    )
    return _at(made, at + 0.05)


# --- one thing goes wrong ---------------------------------------------------------------------------------------------


def _of(lines: Lines, kind: type[Kind]) -> list[Kind]:
    return [line for line in lines if isinstance(line, kind)]


def _promised(lines: Lines) -> list[Post]:
    """Accepted, read once on each topic, and not set aside."""
    records = _of(lines, Kafka)
    places = [(record.topic, record.id) for record in records]
    once = {id_ for topic, id_ in places if places.count((topic, id_)) == 1}
    repeated = {id_ for topic, id_ in places if places.count((topic, id_)) > 1}
    return [post for post in _of(lines, Post) if post.status == 204 and post.id in once - repeated]


def _end(lines: Lines) -> float:
    return max(line.at for line in lines)


def _changed(lines: Lines, old: AnyLine, **fields: object) -> Lines:
    return [msgspec.structs.replace(line, **fields) if line is old else line for line in lines]


def _a_record(chance: random.Random, lines: Lines) -> Kafka:
    promised = {post.id for post in _promised(lines)}
    return chance.choice([record for record in _of(lines, Kafka) if record.id in promised])


def drop_a_record(chance: random.Random, lines: Lines) -> Lines:
    gone = _a_record(chance, lines)
    return [line for line in lines if line is not gone]


def leave_one_in_the_journal(chance: random.Random, lines: Lines) -> Lines:
    gone = _a_record(chance, lines)
    return [*(line for line in lines if line is not gone), _at(Journal(id=gone.id, stream="spool"), _end(lines))]


def stop_too_early(chance: random.Random, lines: Lines) -> Lines:
    last = max(_promised(lines), key=lambda post: post.t1)
    end = last.t1 + chance.uniform(0, 59)
    kept = [line for line in lines if not (isinstance(line, Kafka) and line.id == last.id)]
    return [_at(line, min(line.at, end)) for line in kept]


def store_what_was_refused(chance: random.Random, lines: Lines) -> Lines:
    kept = chance.choice(_promised(lines))
    return _changed(lines, kept, status=chance.choice((400, 401, 413)))


def store_what_nobody_sent(chance: random.Random, lines: Lines) -> Lines:
    return _changed(lines, _a_record(chance, lines), id="nobody's")


def alter_a_record(chance: random.Random, lines: Lines) -> Lines:
    record = _a_record(chance, lines)
    return _changed(lines, record, **chance.choice(({"ctr": record.ctr + 1000}, {"key": "key-9"})))


def two_at_one_place(chance: random.Random, lines: Lines) -> Lines:
    one, other = _a_record(chance, lines), chance.choice(_promised(lines))
    if one.id == other.id:
        other = next(post for post in _promised(lines) if post.id != one.id)
    return [*lines, msgspec.structs.replace(one, id=other.id, key=other.key, ctr=other.ctr)]


def repeat_too_much(chance: random.Random, lines: Lines) -> Lines:
    late = [post.id for post in _promised(lines) if post.t1 > 2.0]
    record = chance.choice([record for record in _of(lines, Kafka) if record.id in late])
    return [*lines, *(msgspec.structs.replace(record, offset=1000 + n) for n in range(BOUNDS.duplicates + 1))]


def set_too_many_aside(chance: random.Random, lines: Lines) -> Lines:
    accepted = [post for post in _of(lines, Post) if post.status == 204]
    return [*lines, *(_at(Letter(id=post.id), _end(lines)) for post in accepted)]


def swap_two(chance: random.Random, lines: Lines) -> Lines:
    """Two of one key exchange their offsets."""
    promised = {post.id: post for post in _promised(lines)}
    by_line = defaultdict(list)
    for record in _of(lines, Kafka):
        if record.id in promised:
            by_line[record.topic, record.partition, record.key].append(record)
    first, second = chance.choice(
        [(one, other) for line in by_line.values() for one in line for other in line if one.offset < other.offset]
    )
    return _changed(_changed(lines, first, offset=second.offset), second, offset=first.offset)


def move_a_key(chance: random.Random, lines: Lines) -> Lines:
    keys = [(record.topic, record.key) for record in _of(lines, Kafka)]
    records = [record for record in _of(lines, Kafka) if keys.count((record.topic, record.key)) > 1]
    return _changed(lines, chance.choice(records), partition=7)


def commit_past_work(chance: random.Random, lines: Lines) -> Lines:
    line = chance.choice(_of(lines, Commit))
    return _changed(lines, line, offset=line.lowest_unfinished + chance.randrange(1, 9))


def do_it_twice(chance: random.Random, lines: Lines) -> Lines:
    done = chance.choice([effect for effect in _of(lines, Effect) if effect.changed])
    return [*lines, msgspec.structs.replace(done, t0=_end(lines), t1=_end(lines) + 0.1)]


def do_nothing(chance: random.Random, lines: Lines) -> Lines:
    done = chance.choice([effect for effect in _of(lines, Effect) if effect.changed])
    return [line for line in lines if line is not done]


def do_not_wait(chance: random.Random, lines: Lines) -> Lines:
    told = chance.choice([effect for effect in _of(lines, Effect) if effect.retry_after] or [_effect("x", "y", 15.0)])
    if not told.retry_after:
        told = msgspec.structs.replace(told, status=429, changed=False, retry_after=1.0)
        lines = [*lines, told]
    at = told.t1 + chance.uniform(0.01, told.retry_after - 0.06)
    return [*lines, _effect(told.id, told.key, at, changed=False)]


def answer_503(chance: random.Random, lines: Lines) -> Lines:
    changed = set(map(id, chance.sample(_promised(lines), 5)))
    return [msgspec.structs.replace(line, status=503) if id(line) in changed else line for line in lines]


def answer_nothing_for_long(chance: random.Random, lines: Lines) -> Lines:
    """All answers after the first second come in the end, while requests go on."""
    end = _end(lines)
    late = [
        msgspec.structs.replace(line, t1=end - 70) if isinstance(line, Post) and line.t0 > 2.0 else line
        for line in lines
    ]
    going_on = Post(id="last", key="last", ctr=1, status=503, t0=end - 65, t1=end - 65)
    return [*late, _at(going_on, end - 65)]


PLANTED: dict[str, Callable[[random.Random, Lines], Lines]] = {
    "lost": drop_a_record,
    "unseen": leave_one_in_the_journal,
    "too early": stop_too_early,
    "refused but stored": store_what_was_refused,
    "foreign": store_what_nobody_sent,
    "altered": alter_a_record,
    "inconsistent": two_at_one_place,
    "duplicates": repeat_too_much,
    "set aside": set_too_many_aside,
    "order": swap_two,
    "moved": move_a_key,
    "commit": commit_past_work,
    "twice": do_it_twice,
    "without effect": do_nothing,
    "not silent": do_not_wait,
    "unavailable": answer_503,
    "silence": answer_nothing_for_long,
}


def red(lines: Lines, bounds: Bounds = BOUNDS) -> set[str]:
    """The checks that fail."""
    return {violation.check for violation in check(lines, bounds).violations}


def test_every_check_has_a_planted_breach() -> None:
    """A check that was never seen to fail may be one that cannot."""
    assert PLANTED.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_breach_is_found(name: str) -> None:
    """The check is green without the breach and red with it, and says how often."""
    lines = good(seed=1)

    assert red(lines) == set()
    found = {each.check: each for each in check(PLANTED[name](random.Random(1), lines), BOUNDS).violations}  # noqa: S311
    assert found[name].count >= 1
    assert found[name].examples


SLOW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(seed=st.integers(0, 2**32), count=st.integers(40, 80))
def test_good_histories_pass(seed: int, count: int) -> None:
    """Refusals, repeats, letters, superseded events and throttling are no violations, whatever their order in the file."""
    lines = good(seed, count)
    random.Random(seed).shuffle(lines)  # noqa: S311 - not a secret

    assert check(lines, BOUNDS).violations == ()


@SLOW
@given(name=st.sampled_from(sorted(PLANTED)), seed=st.integers(0, 2**32), count=st.integers(40, 80))
def test_one_thing_wrong_is_found(name: str, seed: int, count: int) -> None:
    """Whatever the history and wherever it happens."""
    assert name in red(PLANTED[name](random.Random(seed), good(seed, count)))  # noqa: S311 - not a secret


# --- what is none of a violation --------------------------------------------------------------------------------------


def sent(id_: str, ctr: int, t0: float, t1: float, *, key: str = "k", status: int = 204) -> Post:
    return _at(Post(id=id_, key=key, ctr=ctr, status=status, t0=t0, t1=t1), t1)


def stored(id_: str, ctr: int, offset: int, *, key: str = "k", partition: int = 0, **times: float) -> Kafka:
    return _at(Kafka(topic="t", partition=partition, offset=offset, id=id_, key=key, ctr=ctr, **times), 200.0)


@pytest.mark.parametrize(
    ("name", "lines", "bounds"),
    [
        (
            "sent side by side",
            [sent("a", 1, 1.0, 3.0), sent("b", 2, 1.05, 3.0), stored("b", 2, 0), stored("a", 1, 1)],
            Bounds(),
        ),
        (
            "sent side by side, and taken in the other way round",
            [
                sent("a", 1, 1.0, 3.0),
                sent("b", 2, 1.05, 3.0),
                stored("b", 2, 0, received=WALL + 2.1),
                stored("a", 1, 1, received=WALL + 2.2),
            ],
            Bounds(),
        ),
        ("stored, though the answer was 503", [sent("a", 1, 1.0, 2.0, status=503), stored("a", 1, 0)], Bounds()),
        ("not stored, and the answer got lost", [sent("a", 1, 1.0, 2.0, status=0)], Bounds()),
        (
            "read twice at the same place",
            [sent("a", 1, 1.0, 2.0), stored("a", 1, 0), stored("a", 1, 0)],
            Bounds(duplicates=0),
        ),
        (
            "a repeat that was sent twice itself, once refused",
            [sent("a", 1, 1.0, 2.0, status=401), sent("a", 1, 3.0, 4.0), stored("a", 1, 0)],
            Bounds(),
        ),
        (
            "a key in two partitions after their number grew",
            [sent("a", 1, 1.0, 2.0), sent("b", 2, 5.0, 6.0), stored("a", 1, 0), stored("b", 2, 0, partition=7)],
            Bounds(repartitioned=True),
        ),
        (
            "an overtaken event for which nothing was promised",
            [sent("a", 1, 1.0, 2.0, status=503), sent("b", 2, 5.0, 6.0), stored("b", 2, 0), stored("a", 1, 1)],
            Bounds(),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_allowed(name: str, lines: Lines, bounds: Bounds) -> None:
    """Nothing is made of it."""
    assert red([*lines, _at(Note(name="end", value=0), 200.0)], bounds) == set()


def test_an_event_has_to_arrive_on_each_of_its_topics() -> None:
    """An event without its hint is a lost hint."""
    post = msgspec.structs.replace(sent("a", 1, 1.0, 2.0), topics=("t", "work"))

    assert red([post, stored("a", 1, 0)]) == {"lost", "without effect"}


@pytest.mark.parametrize(
    ("second", "times"),
    [(sent("b", 2, 5.0, 6.0), (0.0, 0.0)), (sent("b", 2, 1.1, 2.0), (WALL + 1.2, WALL + 1.3))],
    ids=["answered before the other was sent", "taken in before the other"],
)
def test_what_comes_first_stands_first(second: Post, times: tuple[float, float]) -> None:
    """By what the sender knows, and by what the product says, of two that were sent side by side."""
    first = stored("a", 1, 1, received=times[0])

    assert red([sent("a", 1, 1.0, 2.0), second, stored("b", 2, 0, received=times[1]), first], Bounds()) >= {"order"}


def test_duplicates_are_counted_for_each_fault() -> None:
    """As many as are allowed for each of two faults are fine; the same number because of one is not."""
    posts = [sent(f"a{n}", n, 5.0 * n, 5.0 * n + 1, key=f"k{n}") for n in range(1, 5)]
    records = [stored(f"a{n}", n, n, key=f"k{n}") for n in range(1, 5)]
    again = [stored(f"a{n}", n, n + 10, key=f"k{n}") for n in range(1, 5)]
    faults = [_at(Fault(name="kill", phase="begin"), at) for at in (1.0, 12.0)]

    both: Lines = [*posts, *records, *again, *faults]
    assert red(both, Bounds(duplicates=2)) == set()
    assert [fault.duplicates for fault in check(both, Bounds()).faults] == [2, 2]
    assert red(both[:-1], Bounds(duplicates=2)) == {"duplicates"}


# --- figures ----------------------------------------------------------------------------------------------------------


def outage() -> Lines:
    """Ten a second for 100 s. From 20 to 50 Kafka takes nothing; what was due in the first 2 s of that is answered at 22."""
    lines: Lines = []
    for n in range(1000):
        due = n * 0.1
        t1 = 22.0 if 20.0 <= due < 22.0 else due + 0.01
        written = 50.5 + (due - 20.0) / 100 if 20.0 <= due < 50.5 else due + 0.005
        lines.append(_at(Post(id=str(n), key=str(n), ctr=1, status=204, t0=due, t1=t1, due=due), t1))
        lines.append(stored(str(n), 1, n, key=str(n), appended=written + WALL))
    return [*lines, _at(Fault(name="down", phase="begin"), 20.0), _at(Fault(name="down", phase="end"), 50.0)]


def test_the_figures_of_an_outage() -> None:
    """Measured from when a request was due; the longest silence; how long Kafka stood still; when all was direct again."""
    report = check(outage(), Bounds(tail=20.0))
    (fault,) = report.faults

    assert report.ok
    assert (fault.posted, fault.accepted, fault.duplicates) == (500, 500, 0)
    assert fault.latency.longest == pytest.approx(2.0)
    assert fault.latency.p50 == pytest.approx(0.01)
    assert fault.latency.p99 == pytest.approx(1.6, abs=0.2)
    assert fault.latency.gap == pytest.approx(2.0)
    assert fault.stall == pytest.approx(50.5 - 19.905, abs=0.11)
    assert fault.direct == pytest.approx(0.5, abs=0.2)
    assert fault.caught_up == pytest.approx(0.8, abs=0.05)
    assert "down" in str(report)


def test_a_product_that_never_recovers_has_no_time_of_recovery() -> None:
    """Nothing direct after the end of the fault: None, and the report says never."""
    stuck = [
        msgspec.structs.replace(line, appended=line.appended + 5) if isinstance(line, Kafka) else line
        for line in outage()
    ]
    report = check(stuck)

    assert report.faults[0].direct is None
    assert "direct never" in str(report)


def test_an_empty_history_is_fine() -> None:
    """Nothing was promised."""
    assert check([]).ok


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every kind of line, from two files; the torn last line of a killed process is passed over."""
    lines = good(seed=3)
    with Writer(tmp_path / "a.jsonl") as one, Writer(tmp_path / "b.jsonl") as other:
        one.write(*lines[::2])
        other.write(*lines[1::2])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"kind":"post","id":"to')

    found = read(tmp_path / "a.jsonl", tmp_path / "b.jsonl")

    assert sorted(map(repr, found)) == sorted(map(repr, lines))


@pytest.mark.parametrize("text", ["{}", "[]", '{"kind":"unheard"}', '{"kind":"letter","id":"a","odd":1}', "not json"])
def test_a_line_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    """A history with a hole proves nothing."""
    (tmp_path / "a.jsonl").write_text(f"{text}\n")

    with pytest.raises(HistoryUnreadable, match=r"a\.jsonl:1: "):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("breach", "code"), [("", 0), ("lost", 1)])
def test_the_command_says_it_by_its_exit_code(tmp_path: Path, breach: str, code: int) -> None:
    """0 and `ok`; 1 and the violation."""
    lines = good(seed=4)
    with Writer(tmp_path / "a.jsonl") as file:
        file.write(*(PLANTED[breach](random.Random(1), lines) if breach else lines))  # noqa: S311 - not a secret

    done = subprocess.run(
        (sys.executable, "-m", "tests.faults.invariants", str(tmp_path / "a.jsonl")),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert (f"VIOLATION {breach}: 1" in done.stdout) == bool(breach)
    assert done.stdout.endswith("not ok\n" if breach else "\nok\n")


def test_the_command_fails_where_it_cannot_read(tmp_path: Path) -> None:
    """Exit code 2, and where."""
    (tmp_path / "a.jsonl").write_text("{}\n")

    done = subprocess.run(
        (sys.executable, "-m", "tests.faults.invariants", str(tmp_path / "a.jsonl")),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "a.jsonl:1" in done.stderr


# --- what a letter sets aside -----------------------------------------------------------------------------------------


def test_a_letter_is_about_the_record_that_it_holds_and_no_other() -> None:
    """An id that another one begins with, or that stands in a text, is not set aside by it."""
    posts = [
        Post(id=id_, key="k", ctr=1, status=204, t0=1.0, t1=1.1, event=f"event-{id_}") for id_ in ("a", "a-1", "a-12")
    ]
    reader = Reader("127.0.0.1:9", "", posts)
    event, hint = b'{"data":{"title":"a","rig":{"id":"a-1","ctr":1}}}', b'{"event_id":"event-a-12","series":"a"}'
    for value, found in ((event, "a-1"), (hint, "a-12"), (b'{"title":"a-1"}', "")):
        letter = {"valueBase64": base64.b64encode(value).decode(), "reason": "refusedByKafka"}
        assert [each.id for each in reader.letters(letter)] == ([found] if found else [])
    assert list(reader.letters({"valueBase64": None, "reason": "refusedByKafka"})) == []
