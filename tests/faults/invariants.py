"""What must be true of every history, whatever went wrong: ``python -m tests.faults.invariants HISTORY.jsonl…``

Prints the figures and the violations; exit code 1 where there is one, 2 where the history cannot be read. The model is
Jepsen's checker for Kafka, and Apache Kafka's own replication test: acknowledged ⊆ read, and duplicates are counted.

* *lost*: answered 2xx, and neither read, nor set aside with a reason, nor in the journal.
* *unseen*: … still in the journal ``quiet`` seconds after its answer. *too early*: the history ends before that: nothing
  can be said, so nothing passes.
* *refused but stored*: answered 4xx, and read all the same.
* *foreign*, *altered*, *inconsistent*: read, but never sent; with another key or number; another record at the same place.
* *duplicates*: more than ``duplicates`` because of one fault. *set aside*: more than ``letters`` of what was answered 2xx.
* *order*: of two events of one key, one answered before the other was sent, or taken in by the product before it, the first
  came second. *moved*: one key in two partitions of a topic.
* *commit*: an offset committed past unfinished work.
* *twice*, *without effect*: an event with more than one call that changed something; with none.
* *not silent*: a call with a credential that had been told to wait.
* *unavailable*, *silence*: more requests than ``unavailable`` without a 2xx or 4xx; longer than ``gap`` seconds without a 2xx.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tests.faults.history import (
    Commit,
    Effect,
    Fault,
    History,
    HistoryUnreadable,
    Journal,
    Kafka,
    Letter,
    Post,
    Superseded,
    read,
)

#: Violations are told of with so many examples.
EXAMPLES = 5


@dataclass(frozen=True)
class Bounds:
    """What is allowed. Seconds and counts; None: not looked at.

    ``duplicates`` are for each fault (and for the time before the first). ``effects``: every event read must have one.
    ``repartitioned``: keys may stand in several partitions, and their order is looked at in each. ``tail`` is how long
    after its end a fault is held responsible for what is slow.
    """

    duplicates: int = 500
    letters: int | None = None
    quiet: float = 60.0
    unavailable: int | None = None
    gap: float | None = None
    effects: bool = False
    repartitioned: bool = False
    early: float = 0.05
    tail: float = 60.0


@dataclass(frozen=True)
class Violation:
    """``count`` times, what is forbidden happened."""

    check: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.check}: {self.count} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class Latency:
    """Seconds from when a request was due to its 2xx, and the longest time without any 2xx while there were requests."""

    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True)
class Availability:
    """One fault and what it meant for the sender, from its beginning until ``tail`` seconds after its end.

    ``stall`` is the longest time in which Kafka wrote nothing to some partition that was written to before and after.
    ``direct``: from the end of the fault until Kafka wrote an event within a second of its being sent; ``caught_up``:
    until it did so for all that came. None: it did not, or the history does not say.
    """

    name: str
    target: str
    begin: float
    end: float
    posted: int
    accepted: int
    duplicates: int
    latency: Latency
    stall: float
    direct: float | None
    caught_up: float | None


@dataclass(frozen=True)
class Figures:
    """Counted over the whole history. ``late`` is how late the sender itself was at the 99th percentile, in seconds."""

    posted: int = 0
    accepted: int = 0
    refused: int = 0
    unavailable: int = 0
    records: int = 0
    lost: int = 0
    duplicates: int = 0
    inversions: int = 0
    late: float = 0.0
    latency: Latency = Latency()


@dataclass(frozen=True)
class Report:
    """The verdict, and the figures with it."""

    violations: tuple[Violation, ...]
    figures: Figures
    faults: tuple[Availability, ...]

    @property
    def ok(self) -> bool:
        """Nothing forbidden happened."""
        return not self.violations

    def __str__(self) -> str:
        return "\n".join(_told(self))


def check(history: History, bounds: Bounds = Bounds()) -> Report:
    """The verdict on a history. Pure."""
    facts = _Facts(history, bounds)
    violations = tuple(found for name in CHECKS if (found := _violation(name, facts)) is not None)
    counts = Counter({violation.check: violation.count for violation in violations})
    return Report(violations, _figures(facts, counts), tuple(_availability(facts, fault) for fault in facts.windows))


# --- the facts, sorted ------------------------------------------------------------------------------------------------

Place = tuple[str, int]
"""Topic and partition."""

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class _Window:
    """A fault, and until when it is held responsible. ``healed`` and ``over`` are times of day."""

    name: str
    target: str
    begin: float
    end: float
    until: float
    wall: float
    """``wall`` minus ``at``."""


@dataclass(frozen=True)
class _Facts:
    """A history taken apart."""

    history: History
    bounds: Bounds

    def all(self, kind: type[_Kind]) -> list[_Kind]:
        return [line for line in self.history if isinstance(line, kind)]

    @cached_property
    def end(self) -> float:
        return max((line.at for line in self.history), default=0.0)

    @cached_property
    def posts(self) -> list[Post]:
        return sorted(self.all(Post), key=lambda post: post.t0)

    @cached_property
    def sent(self) -> dict[str, list[Post]]:
        """Id → its requests: Webex may repeat itself."""
        found = defaultdict(list)
        for post in self.posts:
            found[post.id].append(post)
        return dict(found)

    @cached_property
    def accepted(self) -> dict[str, Post]:
        """Id → the request that was answered 2xx, the first of them."""
        found: dict[str, Post] = {}
        for post in self.posts:
            if _is_accepted(post):
                found.setdefault(post.id, post)
        return found

    @cached_property
    def records(self) -> list[Kafka]:
        """By place; what was read twice is there once."""
        by_place = {(each.topic, each.partition, each.offset, each.id): each for each in self.all(Kafka)}
        return [by_place[place] for place in sorted(by_place)]

    @cached_property
    def first(self) -> list[Kafka]:
        """The first occurrence of each event on each topic."""
        found: dict[tuple[str, str], Kafka] = {}
        for record in self.records:
            found.setdefault((record.topic, record.id), record)
        return list(found.values())

    @cached_property
    def repeated(self) -> list[Kafka]:
        """What came again on the same topic."""
        firsts = set(map(id, self.first))
        return [record for record in self.records if id(record) not in firsts]

    @cached_property
    def read_on(self) -> dict[str, set[str]]:
        """Id → the topics where it was read."""
        found = defaultdict(set)
        for record in self.records:
            found[record.id].add(record.topic)
        return dict(found)

    @cached_property
    def aside(self) -> set[str]:
        return {letter.id for letter in self.all(Letter)}

    @cached_property
    def windows(self) -> list[_Window]:
        """The faults in their order; each is responsible until ``tail`` after its end, or until the next one begins."""
        lines = sorted(self.all(Fault), key=lambda line: line.at)
        begun = [line for line in lines if line.phase == "begin"]
        windows = []
        for number, line in enumerate(begun):
            ends = [each.at for each in lines if each.phase == "end" and each.name == line.name and each.at >= line.at]
            end = min(ends, default=self.end)
            following = begun[number + 1].at if number + 1 < len(begun) else math.inf
            until = min(end + self.bounds.tail, following, self.end)
            windows.append(_Window(line.name, line.target, line.at, end, until, line.wall - line.at))
        return windows

    def blamed(self, at: float) -> str:
        """The fault that began last before ``at``."""
        begun = [f"{window.name}@{window.begin:.1f}" for window in self.windows if window.begin <= at]
        return begun[-1] if begun else "no fault yet"

    @cached_property
    def repeated_by(self) -> Counter[str]:
        """How many duplicates each fault is to blame for."""
        answered = {id_: post.t1 for id_, post in self.accepted.items()}
        return Counter(self.blamed(answered.get(record.id, math.inf)) for record in self.repeated)

    @cached_property
    def written(self) -> dict[Place, list[Kafka]]:
        """First occurrences whose time is known, of every partition with much traffic, in the order of their times."""
        found = defaultdict(list)
        for record in self.first:
            if record.appended:
                found[record.topic, record.partition].append(record)
        ordered = {place: sorted(records, key=lambda each: each.appended) for place, records in found.items()}
        return {place: records for place, records in ordered.items() if _is_busy(records)}


def _is_accepted(post: Post) -> bool:
    return 200 <= post.status < 300


def _is_refused(post: Post) -> bool:
    return 400 <= post.status < 500


# --- what must be true: each yields one example for each breach -------------------------------------------------------

Check = Callable[[_Facts], Iterable[str]]


def _lost(facts: _Facts) -> Iterator[str]:
    waiting = {line.id for line in facts.all(Journal)}
    return (each.id for each in _missing(facts) if _had_time(facts, each) and each.id not in waiting)


def _unseen(facts: _Facts) -> Iterator[str]:
    waiting = {line.id for line in facts.all(Journal)}
    return (each.id for each in _missing(facts) if _had_time(facts, each) and each.id in waiting)


def _too_early(facts: _Facts) -> Iterator[str]:
    return (each.id for each in _missing(facts) if not _had_time(facts, each))


def _had_time(facts: _Facts, post: Post) -> bool:
    return facts.end - post.t1 >= facts.bounds.quiet


def _missing(facts: _Facts) -> Iterator[Post]:
    """Accepted, and not read everywhere where it had to arrive."""
    for id_, post in facts.accepted.items():
        found = facts.read_on.get(id_, set())
        if id_ not in facts.aside and not (found >= set(post.topics) if post.topics else found):
            yield post


def _refused_but_stored(facts: _Facts) -> Iterator[str]:
    refused = {id_ for id_, posts in facts.sent.items() if all(map(_is_refused, posts))}
    return iter(sorted(refused & (facts.read_on.keys() | facts.aside)))


def _foreign(facts: _Facts) -> Iterator[str]:
    """Only where the history has requests at all: other tests do not write down what the sandbox sends."""
    return iter(sorted(facts.read_on.keys() - facts.sent.keys()) if facts.sent else ())


def _altered(facts: _Facts) -> Iterator[str]:
    for record in facts.records:
        posts = facts.sent.get(record.id)
        if posts and (record.key, record.ctr) not in {(post.key, post.ctr) for post in posts}:
            yield _where(record)


def _inconsistent(facts: _Facts) -> Iterator[str]:
    at_place = Counter((record.topic, record.partition, record.offset) for record in facts.records)
    return (f"{topic}/{partition}@{offset}" for (topic, partition, offset), n in at_place.items() if n > 1)


def _duplicates(facts: _Facts) -> Iterator[str]:
    for fault, count in facts.repeated_by.items():
        yield from [fault] * max(0, count - facts.bounds.duplicates)


def _order(facts: _Facts) -> Iterator[str]:
    """Compare each record with those of its key that stand before it: the one sent last, and the one taken in last."""
    sent: dict[tuple[str, int, str], float] = {}
    received: dict[tuple[str, int, str], float] = {}
    for record in sorted(facts.first, key=lambda each: (each.topic, each.partition, each.offset)):
        post = facts.accepted.get(record.id)
        if post is None:  # nothing was promised
            continue
        line = (record.topic, record.partition, record.key)
        if post.t1 < sent.get(line, 0.0) or 0.0 < record.received < received.get(line, 0.0):
            yield _where(record)
        sent[line] = max(post.t0, sent.get(line, 0.0))
        received[line] = max(record.received, received.get(line, 0.0))


def _moved(facts: _Facts) -> Iterator[str]:
    if facts.bounds.repartitioned:
        return
    places = defaultdict(set)
    for record in facts.records:
        places[record.topic, record.key].add(record.partition)
    yield from (f"{topic} {key}" for (topic, key), partitions in places.items() if len(partitions) > 1)


def _commit(facts: _Facts) -> Iterator[str]:
    for line in facts.all(Commit):
        if line.offset > line.lowest_unfinished:
            yield f"{line.topic}/{line.partition}: {line.offset} past {line.lowest_unfinished}"


def _set_aside(facts: _Facts) -> Iterator[str]:
    """A product that buries whatever it finds hard loses nothing, and is of no use."""
    aside = sorted(facts.aside & facts.accepted.keys())
    return iter(aside if facts.bounds.letters is not None and len(aside) > facts.bounds.letters else ())


def _twice(facts: _Facts) -> Iterator[str]:
    counts = Counter((effect.id, effect.call) for effect in facts.all(Effect) if effect.changed)
    return (f"{call} {id_}" for (id_, call), count in counts.items() if count > 1)


def _without_effect(facts: _Facts) -> Iterator[str]:
    if not facts.bounds.effects:
        return
    done = {effect.id for effect in facts.all(Effect) if effect.changed} | {each.id for each in facts.all(Superseded)}
    yield from sorted(facts.read_on.keys() - done - facts.aside)


def _not_silent(facts: _Facts) -> Iterator[str]:
    """Calls that began after the answer that asked for silence, and before its time was over."""
    by_credential = defaultdict(list)
    for effect in sorted(facts.all(Effect), key=lambda each: each.t0):
        by_credential[effect.credential].append(effect)
    for effects in by_credential.values():
        begun = [each.t0 for each in effects]
        for each in (each for each in effects if each.retry_after):
            after = bisect.bisect_right(begun, each.t1)
            until = bisect.bisect_left(begun, each.t1 + each.retry_after - facts.bounds.early)
            yield from (f"{other.call} {other.id}" for other in effects[after:until])


def _unavailable(facts: _Facts) -> Iterator[str]:
    failed = [f"{post.id} ({post.status or 'no answer'})" for post in facts.posts if _is_unavailable(post)]
    return iter(failed if facts.bounds.unavailable is not None and len(failed) > facts.bounds.unavailable else ())


def _is_unavailable(post: Post) -> bool:
    return not _is_accepted(post) and not _is_refused(post)


def _silence(facts: _Facts) -> Iterator[str]:
    if facts.bounds.gap is None:
        return
    for window in facts.windows:
        gap = _gap(facts, window.begin, window.until)
        if gap > facts.bounds.gap:
            yield f"{window.name}: {gap:.1f} s"


def _where(record: Kafka) -> str:
    return f"{record.id} at {record.topic}/{record.partition}@{record.offset}"


CHECKS: dict[str, Check] = {
    "lost": _lost,
    "unseen": _unseen,
    "too early": _too_early,
    "refused but stored": _refused_but_stored,
    "foreign": _foreign,
    "altered": _altered,
    "inconsistent": _inconsistent,
    "duplicates": _duplicates,
    "set aside": _set_aside,
    "order": _order,
    "moved": _moved,
    "commit": _commit,
    "twice": _twice,
    "without effect": _without_effect,
    "not silent": _not_silent,
    "unavailable": _unavailable,
    "silence": _silence,
}


def _violation(name: str, facts: _Facts) -> Violation | None:
    found = list(CHECKS[name](facts))
    return Violation(name, len(found), tuple(found[:EXAMPLES])) if found else None


# --- figures ----------------------------------------------------------------------------------------------------------

#: A partition with less traffic than this (records per second) says nothing about how long Kafka stood still.
BUSY = 2.0

#: Seconds from sending to Kafka's own time of writing that still count as direct.
DIRECT = 1.0


def _figures(facts: _Facts, counts: Counter[str]) -> Figures:
    lateness = sorted(post.t0 - post.due for post in facts.posts if post.due is not None)
    return Figures(
        posted=len(facts.posts),
        accepted=sum(map(_is_accepted, facts.posts)),
        refused=sum(map(_is_refused, facts.posts)),
        unavailable=sum(map(_is_unavailable, facts.posts)),
        records=len(facts.records),
        lost=counts["lost"] + counts["unseen"] + counts["too early"],
        duplicates=len(facts.repeated),
        inversions=counts["order"],
        late=_percentile(lateness, 0.99),
        latency=_latency(facts, 0.0, math.inf),
    )


def _latency(facts: _Facts, begin: float, until: float) -> Latency:
    within = [post for post in facts.posts if begin <= _due(post) < until and _is_accepted(post)]
    seconds = sorted(post.t1 - _due(post) for post in within)
    return Latency(
        _percentile(seconds, 0.5),
        _percentile(seconds, 0.99),
        seconds[-1] if seconds else 0.0,
        _gap(facts, begin, until),
    )


def _due(post: Post) -> float:
    return post.t0 if post.due is None else post.due


def _gap(facts: _Facts, begin: float, until: float) -> float:
    """The longest time without a 2xx while requests were due."""
    due = [_due(post) for post in facts.posts if begin <= _due(post) < until and not _is_refused(post)]
    if not due:
        return 0.0
    first, last = due[0], max(due)
    answers = sorted(post.t1 for post in facts.posts if _is_accepted(post) and first < post.t1 < last)
    return max(after - before for before, after in itertools.pairwise([first, *answers, last]))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """By the nearest rank; 0.0 of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _availability(facts: _Facts, window: _Window) -> Availability:
    within = [post for post in facts.posts if window.begin <= _due(post) < window.until]
    direct, caught_up = _recovery(facts, window)
    return Availability(
        name=window.name,
        target=window.target,
        begin=window.begin,
        end=window.end,
        posted=len(within),
        accepted=sum(map(_is_accepted, within)),
        duplicates=facts.repeated_by[f"{window.name}@{window.begin:.1f}"],
        latency=_latency(facts, window.begin, window.until),
        stall=_stall(facts, window),
        direct=direct,
        caught_up=caught_up,
    )


def _is_busy(records: Sequence[Kafka]) -> bool:
    seconds = records[-1].appended - records[0].appended
    return seconds > 0 and len(records) / seconds >= BUSY


def _stall(facts: _Facts, window: _Window) -> float:
    begin, until = window.begin + window.wall, window.until + window.wall
    return max(
        (
            after.appended - before.appended
            for records in facts.written.values()
            for before, after in itertools.pairwise(records)
            if after.appended > begin and before.appended < until
        ),
        default=0.0,
    )


def _recovery(facts: _Facts, window: _Window) -> tuple[float | None, float | None]:
    """Seconds from the end of the fault until every partition takes events directly, and until none comes late."""
    healed, until = window.end + window.wall, window.until + window.wall
    firsts: list[float] = []
    late: list[float] = [0.0]
    for records in facts.written.values():
        waits = [(record.appended, _wait(facts, record)) for record in records if healed <= record.appended <= until]
        late += [at - healed for at, wait in waits if wait > DIRECT]
        direct = [at - healed for at, wait in waits if wait <= DIRECT and at - wait >= healed]
        firsts.append(min(direct, default=math.inf))
    if not firsts or math.isinf(max(firsts)):
        return None, None
    return max(firsts), max(late)


def _wait(facts: _Facts, record: Kafka) -> float:
    """Seconds from sending an event until Kafka wrote it."""
    posts = facts.sent.get(record.id)
    return record.appended - (posts[0].t0 + posts[0].wall - posts[0].at) if posts else 0.0


# --- the report as text -----------------------------------------------------------------------------------------------


def _told(report: Report) -> Iterator[str]:
    figures = report.figures
    yield (
        f"{figures.posted} posted: {figures.accepted} accepted, {figures.refused} refused, {figures.unavailable} neither; "
        f"{figures.records} records, {figures.lost} lost, {figures.duplicates} twice, {figures.inversions} out of order"
    )
    yield f"{_seconds(figures.latency)}; the sender was {figures.late * 1000:.0f} ms late (p99)"
    for fault in report.faults:
        yield (
            f"{fault.name} {fault.target} ({fault.end - fault.begin:.1f} s): {fault.accepted} of {fault.posted} accepted, "
            f"{fault.duplicates} twice, {_seconds(fault.latency)}; Kafka stood still {fault.stall:.1f} s, "
            f"direct {_known(fault.direct)}, caught up {_known(fault.caught_up)} after the end"
        )
    yield from (f"VIOLATION {violation}" for violation in report.violations)
    yield "ok" if report.ok else "not ok"


def _seconds(latency: Latency) -> str:
    return (
        f"p50 {latency.p50 * 1000:.0f} ms, p99 {latency.p99 * 1000:.0f} ms, longest {latency.longest:.1f} s, "
        f"without a 2xx {latency.gap:.1f} s"
    )


def _known(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.invariants", description="Check a history.")
    parser.add_argument("history", nargs="+", type=Path, help="JSON lines; several files are one history")
    parser.add_argument("--duplicates", type=int, default=Bounds.duplicates, help="allowed for each fault")
    parser.add_argument("--letters", type=int, help="events answered 2xx that may be set aside")
    parser.add_argument("--quiet", type=float, default=Bounds.quiet, help="seconds within which everything is seen")
    parser.add_argument("--unavailable", type=int, help="requests that may end without 2xx or 4xx")
    parser.add_argument("--gap", type=float, help="seconds without a 2xx that are allowed")
    parser.add_argument("--effects", action="store_true", help="every event must have an effect")
    given = vars(parser.parse_args(arguments))
    try:
        history = read(*given.pop("history"))
    except (HistoryUnreadable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report = check(history, Bounds(**given))
    sys.stdout.write(f"{report}\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
