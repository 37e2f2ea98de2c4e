"""How long one decision takes, with a policy of five rules. Run it: python -m tests.benchmarks.bench_policy."""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable

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
COUNTS = Counts(approved=3, pending=2, capacity=100)


def microseconds(run: Callable[[], object], *, times: int = 20_000) -> float:
    """The best of five runs, for one call."""
    return min(timeit.repeat(run, number=times, repeat=5)) / times * 1e6


def cost(text: str) -> float:
    """Microseconds for one decision, where no rule matches."""
    policy = parse(text)
    assert policy.decide(REGISTRANT, meeting=MEETING, counts=COUNTS).rule == ""
    return microseconds(lambda: policy.decide(REGISTRANT, meeting=MEETING, counts=COUNTS))


def main() -> None:
    """Print one line for each case."""
    sys.stdout.write(f"{'five rules, none matches':42} {cost(POLICY):7.1f} µs\n")
    for name, condition in {**MATCHING, **WHOLE}.items():
        rule = f'  - {{name: six, when: "{condition}", then: hold}}\n'
        sys.stdout.write(f"{'... and a sixth with ' + name:42} {cost(POLICY + rule):7.1f} µs\n")
    sys.stdout.write(f"{'reading the file':42} {microseconds(lambda: parse(POLICY), times=20):7.0f} µs\n")


if __name__ == "__main__":
    main()
