"""`policy explain`: from files without any settings, and from Webex."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bus.journal_file import FILE_NAME
from service.core import event, ledger
from service.core.ledger import Entry, Fact
from service.core.message import Message
from tests.cli.program import invoke, refusal
from tests.cli.records import put
from tests.cli.test_api import TOKEN, beside, in_days, simulated
from tests.facts import NOW, fact

POLICY = """
version: 1
default: hold
lists: {partners: [example.org]}
rules:
  - {name: elsewhere, meetings: {title: "Board*"}, when: 'true', then: reject}
  - {name: broken, when: registrant.nothing == "x", then: reject}
  - {name: partners-in, when: registrant.emailDomain in lists.partners, then: approve, reason: A partner}
  - {name: everybody-out, when: 'true', then: reject}
"""
QUIET = POLICY.replace("registrant.nothing", "registrant.firstName")
PERSON: dict[str, Any] = {
    "id": "p",
    "email": "ann@example.org",
    "firstName": "Ann",
    "lastName": "Lee",
    "status": "approved",
}
MEETING = {"id": "a" * 32, "title": "Tea", "registration": {"maxRegisterNum": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a policy, a person and a meeting."""
    (tmp_path / "policy.yaml").write_text(QUIET)
    (tmp_path / "broken.yaml").write_text(POLICY)
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    (tmp_path / "fact.json").write_bytes(event.encode(fact("held", "p", **PERSON)))
    (tmp_path / "meeting.json").write_text(json.dumps(MEETING))
    return tmp_path


def explained(folder: Path, *arguments: str, **settings: str) -> dict[str, Any]:
    """What a command printed, which succeeded."""
    done = invoke("policy", "explain", *arguments, folder=folder, settings=settings)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("person", ["person.json", "fact.json"])
def test_which_rule_why_and_what_the_others_say(folder: Path, person: str) -> None:
    """All rules have their say, those behind the one that decides too."""
    found = explained(folder, "policy.yaml", "--registrant", person, "--meeting", "meeting.json")

    assert (found["decision"]["outcome"], found["decision"]["rule"], found["decision"]["reason"]) == (
        "approve",
        "partners-in",
        "A partner",
    )
    assert [(each["name"], each["covers"], each["matched"]) for each in found["steps"]] == [
        ("elsewhere", False, None),
        ("broken", True, False),
        ("partners-in", True, True),
        ("everybody-out", True, True),
    ]
    assert found["counts"] == {"approved": 0, "pending": 0, "capacity": 1}


def test_a_rule_that_fails_holds_and_says_why(folder: Path) -> None:
    """The failure is in its step."""
    found = explained(folder, "broken.yaml", "--registrant", "person.json", "--meeting", "meeting.json")
    assert (found["decision"]["outcome"], found["decision"]["rule"]) == ("hold", "broken")
    assert found["steps"][1]["failure"]


def test_how_full_it_is_can_be_said(folder: Path) -> None:
    """The last place is taken: the waitlist."""
    arguments = ("policy.yaml", "--registrant", "person.json", "--meeting", "meeting.json", "--approved", "1")
    assert explained(folder, *arguments)["decision"]["outcome"] == "waitlist"


def test_the_policy_of_the_settings(folder: Path) -> None:
    """Where no file is named."""
    arguments = ("--registrant", "person.json", "--meeting", "meeting.json")
    assert explained(folder, *arguments, POLICY__FILE="policy.yaml")["decision"]["rule"] == "partners-in"
    assert "POLICY__FILE" in "".join(refusal(invoke("policy", "explain", *arguments, folder=folder), 2))


def test_for_people(folder: Path) -> None:
    """A table: what every rule says, and an arrow at the one that decides."""
    arguments = ("policy.yaml", "--registrant", "-", "--meeting", "meeting.json", "-o", "table")
    done = invoke("policy", "explain", *arguments, folder=folder, stdin=json.dumps(PERSON).encode())
    lines = done.stdout.decode().splitlines()

    assert lines[1].split(maxsplit=2) == ["elsewhere", "reject", "not for this meeting, or not at this time"]
    assert lines[3].split() == ["partners-in", "approve", "matches", "←"]
    assert sum("←" in line for line in lines) == 1
    assert "ann@example.org" not in done.stdout.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--registrant", "person.json"], id="no meeting"),
        pytest.param(["--registrant", "policy.yaml", "--meeting", "meeting.json"], id="not JSON"),
        pytest.param(["--registrant", "person.json", "--meeting", "meeting.json", "--at", "soon"], id="no time"),
        pytest.param(["--registrant", "person.json", "--meeting", "meeting.json", "--at", ""], id="an empty time"),
        pytest.param(
            ["--registrant", "person.json", "--meeting", "meeting.json", "--at", "9999-12-31T23:59:59-12:00"],
            id="a time of no calendar",
        ),
        pytest.param(["--registrant", "-", "--meeting", "-"], id="stdin twice"),
        pytest.param(["--registrant", "", "--meeting", "meeting.json"], id="nobody"),
        pytest.param(["--registrant", "missing.json", "--meeting", "meeting.json"], id="no such file"),
        pytest.param(["--registrant", "person.json", "--meeting", "missing.yaml"], id="no such file for a meeting"),
        pytest.param(["--registrant", "missing/person", "--meeting", "meeting.json"], id="no such folder"),
        pytest.param(["--registrant", ".", "--meeting", "meeting.json"], id="a folder"),
        pytest.param(["--registrant", "latin.json", "--meeting", "meeting.json"], id="not UTF-8"),
        pytest.param(["--registrant", "person.json", "--meeting", "latin.json"], id="a meeting that is not UTF-8"),
        pytest.param(["--registrant", "deep.json", "--meeting", "meeting.json"], id="nested"),
        pytest.param(["--registrant", "person.json", "--meeting", "meeting.json", "--approved", "-1"], id="negative"),
        pytest.param(["--registrant", "person.json", "--meeting", "meeting.json", "--approved", "9" * 30], id="huge"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: list[str]) -> None:
    """Sentences."""
    (folder / "latin.json").write_bytes(b'{"id": "\xff"}')
    (folder / "deep.json").write_bytes(b'{"id":' * 100_000)
    refusal(invoke("policy", "explain", "policy.yaml", *arguments, folder=folder, stdin=b"{}"), 2)


def test_the_policy_and_somebody_from_stdin_is_2(folder: Path) -> None:
    """There is only one of it."""
    (line,) = refusal(
        invoke("policy", "explain", "-", "--registrant", "-", "--meeting", "meeting.json", folder=folder, stdin=b"{}"),
        2,
    )
    assert "stdin" in line


def test_an_empty_object_is_no_id(folder: Path) -> None:
    """Webex is not asked about somebody who is called like the file."""
    (folder / "nobody.json").write_text("{}")
    arguments = ("policy.yaml", "--registrant", "nobody.json", "--meeting", "meeting.json")
    (line,) = refusal(invoke("policy", "explain", *arguments, folder=folder), 2)
    assert line == "What the files hold is no registrant or no meeting as Webex has them."


def test_a_file_that_is_not_there_is_no_id(folder: Path) -> None:
    """Its name says what was meant."""
    settings = {"WEBEX__BASE_URL": "http://127.0.0.1:1", "WEBEX__TOKEN": "t"}
    arguments = ("policy.yaml", "--registrant", "missing.json", "--meeting", "meeting.json")
    said = refusal(invoke("policy", "explain", *arguments, folder=folder, settings=settings), 2)
    assert said == ["missing.json cannot be read (No such file or directory)"]


@pytest.mark.parametrize("id_", ["r" * 300, "r" * 5000, "\udcff", "..", "a/b"], ids=lambda each: ascii(each[:4]))
def test_an_id_that_is_no_file_name(folder: Path, id_: str) -> None:
    """Webex is asked, or would be: there is none here."""
    settings = {"WEBEX__BASE_URL": "http://127.0.0.1:1", "WEBEX__TOKEN": "t"}
    arguments = ("policy.yaml", "--registrant", id_, "--meeting", "meeting.json")
    done = invoke("policy", "explain", *arguments, folder=folder, settings=settings)
    refusal(done, done.returncode)
    assert done.returncode in (1, 2, 3, 4)


@pytest.fixture(scope="module")
def webex() -> Iterator[tuple[str, str, list[str]]]:
    """A simulated Webex with a meeting of five places and three people, one of them approved."""
    with beside(simulated(link_header=True)) as url, httpx.Client(base_url=url) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        form = {"autoAcceptRequest": False, "maxRegisterNum": 5}
        body = {"title": "Tea", "start": in_days(1), "end": in_days(1.1), "registration": form}
        meeting = client.post("/v1/meetings", json=body).raise_for_status().json()["id"]
        people = (
            client.post("/sandbox/people", json={"meetingId": meeting, "count": 3}).raise_for_status().json()["ids"]
        )
        ids = {"registrants": [{"id": people[0]}], "sendEmail": False}
        client.post(f"/v1/meetings/{meeting}/registrants/approve", json=ids).raise_for_status()
        yield url, meeting, people


def test_webex_is_asked_about_ids(folder: Path, webex: tuple[str, str, list[str]]) -> None:
    """The person, the meeting, and how full it is."""
    url, meeting, people = webex
    settings = {"WEBEX__BASE_URL": f"{url}/v1", "WEBEX__TOKEN": TOKEN}
    found = explained(folder, "policy.yaml", "--registrant", people[1], "--meeting", meeting, **settings)

    assert found["counts"] == {"approved": 1, "pending": 2, "capacity": 5}
    assert found["decision"]["rule"] in ("partners-in", "everybody-out")
    mixed = ("policy.yaml", "--registrant", "person.json", "--meeting", meeting)
    assert explained(folder, *mixed, **settings)["decision"]["rule"] == "partners-in"
    unknown = ("policy", "explain", "policy.yaml", "--registrant", "nobody", "--meeting", meeting)
    refusal(invoke(*unknown, folder=folder, settings=settings), 3)


def noted(kind: str, meeting: str, id_: str, *, there: bool = True) -> Message:
    """A record of the ledger about a registrant."""
    entry = Entry(kind=kind, subject=meeting, registrant=id_, value=Fact(at=NOW) if there else None)
    return ledger.to_message(entry, organization="default")


@pytest.mark.parametrize(
    ("kinds", "by"),
    [
        ([], None),
        (["approved"], "approved"),
        (["rejected"], "rejected"),
        (["approved", "human"], "human"),
        (["human", "released"], None),
        (["human", "released", "approved"], "approved"),
        (["approved", "-approved"], None),
        (["human", "released", "-released"], None),
    ],
    ids=str,
)
def test_who_is_out_of_the_policys_hands(
    folder: Path, webex: tuple[str, str, list[str]], kinds: list[str], by: str | None
) -> None:
    """Whatever the rules say: by the ledger, and where there is one."""
    url, meeting, people = webex
    settings = {"WEBEX__BASE_URL": f"{url}/v1", "WEBEX__TOKEN": TOKEN}
    records = [noted(kind.lstrip("-"), meeting, people[1], there=kind[0] != "-") for kind in kinds]
    put(folder / "data", noted("human", meeting, people[2]), *records)
    asked = ("policy.yaml", "--registrant", people[1], "--meeting", meeting)
    found = explained(folder, *asked, **settings)
    shown = invoke("policy", "explain", *asked, "-o", "table", folder=folder, settings=settings).stdout.decode()

    assert found["outOfHands"] == ({"by": by, "since": "2026-03-01T12:00:00.000Z"} if by else None)
    assert ("out of the policy's hands since 2026-03-01T12:00:00.000Z" in shown) == (by is not None)


def test_a_ledger_that_cannot_be_read_is_no_obstacle(folder: Path, webex: tuple[str, str, list[str]]) -> None:
    """It is said on stderr; what the rules say is printed."""
    url, meeting, people = webex
    (folder / "data").mkdir()
    (folder / "data" / FILE_NAME).write_bytes(b"no journal" * 1000)
    settings = {"WEBEX__BASE_URL": f"{url}/v1", "WEBEX__TOKEN": TOKEN}
    asked = ("policy", "explain", "policy.yaml", "--registrant", people[1], "--meeting", meeting)
    done = invoke(*asked, folder=folder, settings=settings)

    assert json.loads(done.stdout)["outOfHands"] is None
    assert refusal(done, 0)[-1].startswith("So the ledger was not asked")
