"""How long decisions take, and how many one core makes. Run it: python -m tests.benchmarks.bench_policy."""

from __future__ import annotations

import itertools
import sys
import timeit
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from service.core.meetings import Meeting
from service.core.policy import Counts, parse
from service.core.registrants import Registrant

POLICY = """
version: 1
lists:
  partners: [a.example, b.example, c.example, d.example, example.org]
  blocked: [x.example, y.example]
rules:
  - {name: one, when: registrant.emailDomain in lists.blocked, then: reject}
  - {name: two, meetings: {title: Other*}, when: registrant.emailDomain in lists.partners, then: approve}
  - {name: three, when: registrant.companyName == "" || registrant.jobTitle == "", then: hold}
  - {name: four, when: counts.approved >= counts.capacity, then: hold}
  - name: five
    when: registrant.countryRegion in ["United States", "Germany"] && meeting.scheduledType == "nothing"
    then: approve
"""
MATCHING = {
    "a pattern": "registrant.jobTitle.matches('(?i)^never$')",
    "a loop": "lists.partners.exists(d, d == 'never')",
}
WHOLE = {"all fields (size(registrant))": "size(registrant) == 0"}

RULE = "registrant.emailDomain in lists.partners"
LARGE = """
version: 1
lists: {vips: {file: vips.txt}}
rules: [{name: vips, when: registrant.emailAddress in lists.vips, then: approve}]
"""
VIPS = "".join(f"guest{number}@example.org\n" for number in range(100_000))
MEETING_RULES = """
version: 1
meetingRules:
  - {name: record, when: meeting.scheduledType == "webinar", set: {enabledAutoRecordMeeting: true}}
  - {name: title, when: true, set: {agenda: "About ${meeting.title}"}, enforce: always}
"""

FIELDS = {
    "firstName": "Bob",
    "lastName": "Lee",
    "jobTitle": "manager",
    "companyName": "Cisco",
    "city": "New York",
    "state": "New York",
    "zipCode": 123456,
    "countryRegion": "United States",
    "workPhone": "+1 123456",
    "registrationTime": "2021-09-07T09:29:13+08:00",
    "customizedQuestions": [{"questionId": 330087, "answers": [{"optionId": 1, "answer": "green"}]}],
}
QUESTIONS = {"customizedQuestions": [{"id": 330087, "question": "Colour?", "type": "dropdownList"}]}
MEETING = Meeting(id="0" * 32, title="A meeting", fields={"scheduledType": "webinar", "registration": QUESTIONS})
REGISTRANT = Registrant(id="1", status="pending", email="bob@example.com", registered=None, fields=FIELDS)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
COUNTS = Counts(approved=3, pending=2, capacity=100)


def microseconds(run: Callable[[], object], *, times: int = 20_000) -> float:
    """The best of five runs, for one call."""
    return min(timeit.repeat(run, number=times, repeat=5)) / times * 1e6


def cost(text: str, files: Mapping[str, str] = {}) -> float:
    """Microseconds for one decision, where no rule matches."""
    policy = parse(text, files)
    assert policy.decide(REGISTRANT, meeting=MEETING, counts=COUNTS, now=NOW).rule == ""
    return microseconds(lambda: policy.decide(REGISTRANT, meeting=MEETING, counts=COUNTS, now=NOW))


def cost_of_approvals() -> float:
    """Microseconds for each of many who are approved one after the other, so that the counts change each time."""
    policy, approved = parse("version: 1\ndefault: approve\n" + POLICY.replace("version: 1\n", "")), itertools.count()

    def decide() -> object:
        counts = Counts(approved=next(approved) % 50, pending=2, capacity=100)
        return policy.decide(REGISTRANT, meeting=MEETING, counts=counts, now=NOW)

    return microseconds(decide)


def cost_of_a_rule() -> float:
    """Microseconds that one more rule takes: a hundred of them, less none."""
    rules = "".join(f"  - {{name: r{number}, when: '{RULE}', then: hold}}\n" for number in range(100))
    head = "version: 1\nlists: {partners: [a.example, b.example]}\nrules:\n"
    return (cost(head + rules) - cost(head + f"  - {{name: r, when: '{RULE}', then: hold}}\n")) / 99


def cost_of_wishes() -> float:
    """Microseconds for two meeting rules and one meeting."""
    policy = parse(MEETING_RULES)
    assert len(policy.wishes(MEETING, now=NOW)) == 2
    return microseconds(lambda: policy.wishes(MEETING, now=NOW), times=5_000)


def report(what: str, cost: float, *, each: str = "") -> None:
    """One line; ``each`` names what there is one of in that time."""
    rate = f"  {1e6 / cost:>9,.0f} {each}/s and core" if each else ""
    sys.stdout.write(f"{what:44} {cost:8.1f} µs{rate}\n")


def main() -> None:
    """Print one line for each case."""
    report("decide(): five rules, none matches", cost(POLICY), each="decisions")
    report("decide(): five rules, everybody is approved", cost_of_approvals(), each="decisions")
    report("one rule more: an e-mail's domain in a list", cost_of_a_rule(), each="rules")
    for name, condition in {**MATCHING, **WHOLE}.items():
        rule = f'  - {{name: six, when: "{condition}", then: hold}}\n'
        report("five rules and a sixth with " + name, cost(POLICY + rule))
    report("one rule, a list of 100,000 addresses", cost(LARGE, {"vips.txt": VIPS}))
    report("wishes(): two meeting rules", cost_of_wishes(), each="meetings")
    report("reading the file", microseconds(lambda: parse(POLICY), times=20))


if __name__ == "__main__":
    main()
