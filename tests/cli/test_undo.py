"""`registrants undo`, against the simulated Webex and the facts on a journal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.core import ledger
from service.core.ledger import Entry, KnownMeeting
from tests.cli.program import PROGRAM, environment, invoke, refusal
from tests.cli.records import put
from tests.cli.test_api import TOKEN, beside, in_days, simulated
from tests.facts import fact

RULE = "partners-in"


@dataclass
class Scene:
    """A meeting at a simulated Webex, whose registrants a rule approved; and the facts about it."""

    folder: Path
    webex: httpx.Client
    series: str
    people: list[str]

    @property
    def settings(self) -> dict[str, str]:
        return {"WEBEX__BASE_URL": f"{str(self.webex.base_url).rstrip(chr(47))}/v1", "WEBEX__TOKEN": TOKEN}

    def undo(self, *arguments: str, since: str = "1h", rule: str = RULE) -> subprocess.CompletedProcess[bytes]:
        """The command."""
        words = ("registrants", "undo", "--since", since, "--rule", rule, *arguments)
        return invoke(*words, folder=self.folder, settings=self.settings)

    def items(self, *arguments: str, **more: str) -> list[dict[str, Any]]:
        """What it printed, where it succeeded."""
        done = self.undo(*arguments, **more)
        assert done.returncode == 0, done.stderr.decode()
        return list(json.loads(done.stdout)["items"])

    def statuses(self) -> list[str]:
        """Of the people, at Webex."""
        found = self.webex.get(f"/v1/meetings/{self.series}/registrants", params={"max": 100}).json()["items"]
        by_id = {each["id"]: each["status"] for each in found}
        return [by_id[id_] for id_ in self.people]

    def set(self, verb: str, *people: str) -> None:
        """As a host does."""
        body = {"registrants": [{"id": id_} for id_ in people], "sendEmail": False}
        self.webex.post(f"/v1/meetings/{self.series}/registrants/{verb}", json=body).raise_for_status()

    def writes(self) -> list[dict[str, Any]]:
        """What Webex was asked to change."""
        calls = self.webex.get("/sandbox/ledger").json()["calls"]
        return [each for each in calls if each["operationId"].startswith("batch") and each["meetingId"] == self.series]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    """One for all tests; each has a meeting of its own."""
    with beside(simulated(link_header=True)) as url:
        yield url


@pytest.fixture
def scene(sandbox: str, tmp_path: Path) -> Iterator[Scene]:
    """Four people, all approved: two by the rule, one by another, one by the rule three hours ago."""
    with httpx.Client(base_url=sandbox, headers={"authorization": f"Bearer {TOKEN}"}) as webex:
        form = {"autoAcceptRequest": False}
        body = {"title": "Tea", "start": in_days(1), "end": in_days(1.1), "registration": form}
        series = webex.post("/v1/meetings", json=body).raise_for_status().json()["id"]
        people = webex.post("/sandbox/people", json={"meetingId": series, "count": 4}).raise_for_status().json()["ids"]
        scene = Scene(tmp_path, webex, series, people)
        scene.set("approve", *people)
        shown = webex.get(f"/v1/meetings/{series}/registrants", params={"max": 100}).json()["items"]
        emails = {each["id"]: each["email"] for each in shown}
        rules = dict(zip(people, (RULE, RULE, "another", RULE), strict=True))
        facts = [
            fact("approved", id_, series=series, by="policy", rule=rule, email=emails[id_])
            for id_, rule in rules.items()
        ]
        put(tmp_path / "data", facts[3], at=datetime.now(UTC) - timedelta(hours=3))
        put(tmp_path / "data", *facts[:3])
        webex.delete("/sandbox/faults")
        yield scene


def test_a_dry_run_shows_whom_and_sends_nothing(scene: Scene) -> None:
    """It needs no Webex at all."""
    before = len(scene.writes())
    shown = scene.items("--dry-run")

    assert [each["id"] for each in shown] == sorted(scene.people[:2])
    assert {each["meetingId"] for each in shown} == {scene.series}
    assert len(scene.writes()) == before
    assert scene.statuses() == ["approved"] * 4


@pytest.mark.parametrize(("to", "status"), [("cancel", "pending"), ("reject", "rejected")])
def test_what_the_rule_approved_is_taken_back(scene: Scene, to: str, status: str) -> None:
    """Of the span only, in one call, read back; and nobody else."""
    before = len(scene.writes())
    done = scene.items("--to", to, "--yes", "--notify", "false")

    assert [each["result"] for each in done] == ["done", "done"]
    assert scene.statuses() == [status, status, "approved", "approved"]
    (write,) = scene.writes()[before:]
    assert (write["operationId"], write["registrants"]) == (f"batch{to.title()}MeetingRegistrants", 2)
    assert write["sendEmail"] is False


@pytest.mark.parametrize("to", ["cancel", "reject"])
def test_who_is_rejected_is_not_released_so_easily(scene: Scene, to: str) -> None:
    """Nobody decides about them before they are pending: that is said, and what to do instead."""
    said = scene.undo("--to", to, "--yes").stderr.decode()
    assert ("as soon as they are pending" in said and "--to cancel" in said) == (to == "reject")


def test_a_rule_that_nothing_names(scene: Scene) -> None:
    """Is no error, but said: it may be misspelt."""
    said = refusal(scene.undo("--dry-run", rule="partner-in"), 0)
    assert said == ['Nothing that is on the bus since then names a rule "partner-in"; it names: another, partners-in.']
    assert refusal(scene.undo("--dry-run"), 0) == []


def test_a_longer_span(scene: Scene) -> None:
    """Who was approved three hours ago, too."""
    assert len(scene.items("--yes", since="1d")) == 3
    assert scene.statuses() == ["pending", "pending", "approved", "pending"]


def test_only_one_meeting(scene: Scene) -> None:
    """Another one has nobody."""
    assert scene.items("--yes", "--meeting", "c" * 32) == []
    assert len(scene.items("--yes", "--meeting", scene.series)) == 2


def test_another_meeting_is_left_alone(scene: Scene) -> None:
    """Also where the same rule approved somebody there."""
    put(scene.folder / "data", fact("approved", "q", series="c" * 32, by="policy", rule=RULE))
    shown = scene.items("--dry-run", "--meeting", scene.series)
    assert {each["meetingId"] for each in shown} == {scene.series}
    assert len(scene.items("--dry-run")) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ["--meeting", ""],
        ["--meeting", " "],
        ["--meeting", "Tea"],
        ["--meeting", "c" * 31],
        ["--rule", ""],
        ["--since", ""],
        ["--since", "soon"],
        ["--since", "9999-12-31T23:59:59-12:00"],
        ["--since", "0001-01-01T00:00:00+12:00"],
        ["--to", "delete"],
        ["--notify", "perhaps"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_undoes_nothing(scene: Scene, wrong: list[str]) -> None:
    """An empty text is a variable that was not set, and does not mean everybody."""
    refusal(scene.undo("--yes", *wrong), 2)
    assert scene.statuses() == ["approved"] * 4


def test_what_shadow_mode_only_proposed_is_not_undone(scene: Scene) -> None:
    """A host approved them by hand, and no fact tells of that yet: it was never the rule's."""
    proposed = fact("proposed", scene.people[2], series=scene.series, by="policy", rule="shadow-rule")
    proposed.data["decision"]["outcome"] = "approve"
    put(scene.folder / "data", proposed)

    assert scene.items("--yes", rule="shadow-rule") == []
    assert scene.statuses() == ["approved"] * 4


@pytest.mark.parametrize("by", ["host", "command"])
def test_what_somebody_else_approved_is_not_the_rules(scene: Scene, by: str) -> None:
    """Also a command whose id is the name of the rule."""
    put(scene.folder / "data", fact("approved", scene.people[0], series=scene.series, by=by, rule=RULE))
    assert [each["id"] for each in scene.items("--dry-run")] == [scene.people[1]]


def test_whom_the_default_approved(scene: Scene) -> None:
    """By the word that stands for it in a backtest."""
    put(scene.folder / "data", fact("approved", "x", series=scene.series, by="policy"))
    (shown,) = scene.items("--dry-run", rule="(default)")
    assert shown["id"] == "x"


@pytest.mark.parametrize("what", ["cancelled", "rejected"])
@pytest.mark.parametrize("by", ["host", "command"])
def test_who_was_decided_by_a_person_since_is_left_alone(scene: Scene, what: str, by: str) -> None:
    """By the facts."""
    put(scene.folder / "data", fact(what, scene.people[0], series=scene.series, by=by))
    assert [each["id"] for each in scene.items("--dry-run")] == [scene.people[1]]


def test_who_is_not_approved_any_more_is_left_alone(scene: Scene) -> None:
    """By Webex' own word, before any fact tells of it: the host rejected one, and rejected they stay."""
    scene.set("reject", scene.people[0])
    done = scene.undo("--yes")

    assert done.returncode == 0
    assert b"1 of 2 are not approved any more" in done.stderr
    assert scene.statuses() == ["rejected", "pending", "approved", "approved"]


def test_nobody_is_there_to_be_asked(scene: Scene) -> None:
    """Exit code 2, and nothing was sent; the table was shown."""
    lines = refusal(scene.undo(), 2)
    assert "cancel 2 registrants of 1 meetings" in lines[-1]
    assert "--yes" in lines[-1]
    assert scene.statuses() == ["approved"] * 4


@pytest.mark.parametrize(("typed", "code"), [("2", 0), ("y", 1)])
def test_a_person_types_the_count(scene: Scene, typed: str, code: int) -> None:
    """The right one, and nothing else, will do."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        (*PROGRAM, "registrants", "undo", "--since", "1h", "--rule", RULE),
        cwd=scene.folder,
        env=environment(scene.settings),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(ours, typed.encode() + b"\n")
    _, said = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)

    assert process.returncode == code, said.decode()
    assert "type their count" in said.decode()
    assert scene.statuses()[:2] == (["pending"] * 2 if code == 0 else ["approved"] * 2)


def test_what_webex_refuses_is_3(scene: Scene) -> None:
    """The rows say that it was not done."""
    fault = {"operation": "batchCancelMeetingRegistrants", "status": 400}
    scene.webex.post("/sandbox/faults", json=fault).raise_for_status()
    done = scene.undo("--yes")
    scene.webex.delete("/sandbox/faults")

    assert done.returncode == 3, done.stderr.decode()
    assert [each["result"] for each in json.loads(done.stdout)["items"]] == ["notShown", "notShown"]
    assert scene.statuses() == ["approved"] * 4


def test_the_host_of_the_meeting_is_named(scene: Scene) -> None:
    """The ledger knows whose meeting it is; by another host's name Webex does not find it, and that is said."""
    known = KnownMeeting(organization="default", host_email="somebody@example.com")
    entry = Entry(kind="meeting", subject=scene.series, value=known)
    put(scene.folder / "data", ledger.to_message(entry, organization="default"))
    lines = refusal(scene.undo("--yes"), 1)

    assert lines[0] == f"Webex does not find meeting {scene.series} (any more): its registrants are left alone."
    assert scene.statuses() == ["approved"] * 4
