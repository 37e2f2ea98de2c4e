"""`policy backtest`: a replay of the facts on the bus."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.program import PROGRAM, environment, invoke, refusal
from tests.cli.records import on, put
from tests.cli.test_api import TOKEN, beside, in_days, simulated
from tests.facts import SERIES, fact

NEW = """
version: 1
default: hold
rules:
  - {name: tea-in, meetings: {host: "ann@example.org"}, when: registrant.emailDomain == "example.org", then: approve}
"""
BY_TITLE = NEW.replace('host: "ann@example.org"', 'title: "Tea*"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two days ago somebody was held; lately two were held, one was approved, and a host rejected one."""
    (tmp_path / "new.yaml").write_text(NEW)
    (tmp_path / "by-title.yaml").write_text(BY_TITLE)
    data, now = tmp_path / "data", datetime.now(UTC)
    put(data, fact("created", SERIES, family="meeting", hostEmail="ann@example.org"), at=now - timedelta(days=2))
    put(data, fact("held", "old", by="policy"), at=now - timedelta(days=2))
    lately = [fact("held", id_, by="policy") for id_ in ("p1", "p2")]
    lately += [fact("approved", "p3", by="policy", rule="everybody"), fact("rejected", "p4", by="host")]
    put(data, *lately, fact("held", "p5", by="policy", series="b" * 32), at=now - timedelta(minutes=5))
    return tmp_path


def backtest(folder: Path, *arguments: str, policy: str = "new.yaml", **settings: str) -> dict[str, Any]:
    """The report of a command that succeeded."""
    done = invoke("policy", "backtest", policy, *arguments, folder=folder, settings=settings)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def test_who_would_change_by_rule(folder: Path) -> None:
    """In the span only; a person's decision stays; a meeting that nobody told of is named. Nothing is written."""
    before = len(on(folder / "data", "registrants"))
    report = backtest(folder, "--since", "1d")

    assert report["items"] == [
        {
            "rule": "tea-in",
            "before": "hold",
            "beforeRule": "",
            "after": "approve",
            "count": 2,
            "open": 2,
            "registrants": [f"{SERIES}/p1", f"{SERIES}/p2"],
        }
    ]
    assert {name: report[name] for name in ("registrants", "meetings", "changed", "open", "byPeople")} == {
        "registrants": 5,
        "meetings": 2,
        "changed": 2,
        "open": 2,
        "byPeople": 1,
    }
    assert report["unknownMeetings"] == ["b" * 32]
    assert len(on(folder / "data", "registrants")) == before
    assert backtest(folder, "--since", "7d")["changed"] == 3


def test_a_table_for_people(folder: Path) -> None:
    """Rule, from, to, how many, who; the sum in a sentence on stderr."""
    done = invoke("policy", "backtest", "new.yaml", "--since", "1d", "-o", "table", folder=folder)
    head, row = done.stdout.decode().splitlines()

    assert head.split() == ["RULE", "FROM", "TO", "COUNT", "OPEN", "REGISTRANTS"]
    assert row.split() == ["tea-in", "hold", "approve", "2", "2", "p1,", "p2"]
    assert done.stderr.decode().startswith("2 of 5 registrants in 2 meetings would be decided otherwise")


def test_webex_knows_the_meetings_better(folder: Path) -> None:
    """With a token it is asked: the title, and a limit. Offline it is not, and no event tells a title."""
    with beside(simulated(link_header=True)) as url, httpx.Client(base_url=url) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        form = {"autoAcceptRequest": False, "maxRegisterNum": 1}
        body = {"title": "Tea", "start": in_days(1), "end": in_days(1.1), "registration": form}
        series = client.post("/v1/meetings", json=body).raise_for_status().json()["id"]
        put(folder / "data", *(fact("held", id_, by="policy", series=series) for id_ in ("q1", "q2")))
        settings = {"WEBEX__BASE_URL": f"{url}/v1", "WEBEX__TOKEN": TOKEN}
        asked = backtest(folder, "--since", "1d", policy="by-title.yaml", **settings)
        offline = backtest(folder, "--since", "1d", "--offline", policy="by-title.yaml", **settings)

    changed = {each["after"]: set(each["registrants"]) for each in asked["items"]}
    assert changed == {"approve": {f"{series}/q1"}, "hold": {f"{SERIES}/p3"}, "waitlist": {f"{series}/q2"}}
    assert asked["unknownMeetings"] == [SERIES, "b" * 32]
    assert offline["unknownMeetings"] == sorted([SERIES, "b" * 32, series])


def test_a_person_sees_a_bar(folder: Path) -> None:
    """On stderr where that is a terminal; stdout stays a program's."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        (*PROGRAM, "policy", "backtest", "new.yaml"),
        cwd=folder,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    printed, _ = process.communicate(timeout=30)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)

    assert json.loads(printed)["changed"] == 3
    assert "Reading registrants" in shown
    assert "100%" in shown


@pytest.mark.parametrize("arguments", [["--since", "soon"], ["--since", "1y"]], ids=" ".join)
def test_wrong_usage_is_2(folder: Path, arguments: list[str]) -> None:
    """No time."""
    refusal(invoke("policy", "backtest", "new.yaml", *arguments, folder=folder), 2)


def test_a_bad_policy_is_2_before_anything_is_read(tmp_path: Path) -> None:
    """With line and column."""
    (tmp_path / "new.yaml").write_text("version: 1\ndefault: maybe\n")
    (line,) = refusal(invoke("policy", "backtest", "new.yaml", folder=tmp_path), 2)
    assert line.startswith("new.yaml: line 2, column 10: ")
