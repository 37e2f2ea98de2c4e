"""Registration forms: reading, changing and ending them, what they ask for, and Webex's own approval rules."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.sandbox.simulated import Clock, ledger, meeting_body, people, schedule, statuses

PERSON = {"firstName": "Ada", "lastName": "Abel", "email": "ada@example.org"}
TEAM = {"question": "Team", "type": "dropdownList", "options": [{"value": "A"}, {"value": "B"}]}


async def register(client: httpx.AsyncClient, series: str, **more: Any) -> httpx.Response:
    """One person."""
    return await client.post(f"/v1/meetings/{series}/registrants", json={**PERSON, **more})


def rule(condition: str, value: str, result: str, **more: Any) -> dict[str, Any]:
    """A standard rule on the e-mail."""
    return {"question": "email", "condition": condition, "value": value, "result": result, "order": 1, **more}


async def test_a_form_is_read_changed_and_ended(client: httpx.AsyncClient) -> None:
    """GET shows every option; PUT replaces the form, and switches it on where there was none; DELETE ends it."""
    series = await schedule(client, registration=None)
    path = f"/v1/meetings/{series}/registration"
    assert (await client.get(path)).status_code == 404
    put = await client.put(path, json={"requireJobTitle": True, "customizedQuestions": [TEAM], "maxRegisterNum": 5})
    assert put.status_code == 200
    form = (await client.get(path)).json()
    assert form == put.json()
    assert (form["requireEmail"], form["requireJobTitle"], form["requireCity"]) == (True, True, False)
    options = [{"id": 1, "value": "A"}, {"id": 2, "value": "B"}]
    assert form["customizedQuestions"] == [{"id": 1, "required": False, **TEAM, "options": options}]
    assert (await client.put(path, json={})).json()["requireJobTitle"] is False
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 404
    assert (await register(client, series)).status_code == 400


async def test_registrants_outlive_a_change_of_the_form(client: httpx.AsyncClient) -> None:
    """Who has registered stays registered when the form changes."""
    series = await schedule(client)
    ids = await people(client, series, 2)
    await client.put(f"/v1/meetings/{series}/registration", json={"requireCity": True})
    assert list(await statuses(client, series)) == ids


@pytest.mark.parametrize(
    "form",
    [
        pytest.param({"requireEmail": False}, id="no e-mail"),
        pytest.param({"maxRegisterNum": 0}, id="nobody"),
        pytest.param({"customizedQuestions": [{**TEAM, "options": []}]}, id="no options"),
        pytest.param({"customizedQuestions": [{**TEAM, "maxLength": 1000}]}, id="long answers"),
        pytest.param({"customizedQuestions": [{"question": "Team", "type": "guess"}]}, id="type that is none"),
        pytest.param({"rules": [rule("looksLike", "x", "approve")]}, id="condition that is none"),
        pytest.param({"rules": [rule("equals", "x", "hold")]}, id="result that is none"),
        pytest.param({"rules": [{**rule("equals", "x", "approve"), "question": "firstName"}]}, id="first name"),
        pytest.param({"autoAcceptRequest": "yes"}, id="no boolean"),
    ],
)
async def test_what_a_form_must_be(client: httpx.AsyncClient, form: dict[str, Any]) -> None:
    """What Webex would not take is refused, in a meeting to be created and in an update."""
    series = await schedule(client)
    assert (await client.put(f"/v1/meetings/{series}/registration", json=form)).status_code == 400
    assert (await client.post("/v1/meetings", json=meeting_body(registration=form))).status_code == 400


@pytest.mark.parametrize(
    "settings",
    [{"recurrence": "FREQ=DAILY;COUNT=2"}, {"password": ""}, {"scheduledType": "personalRoomMeeting"}],
    ids=["recurring", "without password", "personal room"],
)
async def test_some_meetings_have_no_registration(client: httpx.AsyncClient, settings: dict[str, Any]) -> None:
    """Neither at first nor later."""
    assert (await client.post("/v1/meetings", json=meeting_body(**settings))).status_code == 400
    series = await schedule(client, registration=None, **settings)
    assert (await client.put(f"/v1/meetings/{series}/registration", json={})).status_code == 400


async def test_a_meeting_that_is_over_takes_no_form(client: httpx.AsyncClient, clock: Clock) -> None:
    """Nor registrants."""
    series = await schedule(client)
    clock.advance(days=2)
    assert (await client.put(f"/v1/meetings/{series}/registration", json={})).status_code == 400
    assert (await register(client, series)).status_code == 400


@pytest.mark.parametrize(
    ("given", "status"),
    [
        pytest.param({}, 400, id="nothing"),
        pytest.param({"city": "Vienna"}, 400, id="required question unanswered"),
        pytest.param({"city": "Vienna", "answers": [(1, 1, "A")]}, 200, id="all"),
        pytest.param({"city": "", "answers": [(1, 1, "A")]}, 400, id="empty text"),
        pytest.param({"city": "Vienna", "answers": [(1, 9, "A")]}, 400, id="no such option"),
        pytest.param({"city": "Vienna", "answers": [(1, 1, "A"), (9, 1, "A")]}, 400, id="no such question"),
        pytest.param({"city": "Vienna", "answers": [(1, 1, "A"), (2, None, "x" * 11)]}, 400, id="too long"),
    ],
)
async def test_what_a_form_asks_for(client: httpx.AsyncClient, given: dict[str, Any], status: int) -> None:
    """Required fields and questions are needed; answers fit their questions."""
    questions = [{**TEAM, "required": True}, {"question": "Why?", "type": "singleLineTextBox", "maxLength": 10}]
    series = await schedule(client, registration={"requireCity": True, "customizedQuestions": questions})
    answers = given.pop("answers", [])
    body = {**given, "customizedQuestions": [_answered(*answer) for answer in answers]}
    assert (await register(client, series, **body)).status_code == status


def _answered(question: int, option: int | None, text: str) -> dict[str, Any]:
    answer = {"answer": text} | ({} if option is None else {"optionId": option})
    return {"questionId": question, "answers": [answer]}


@pytest.mark.parametrize(
    ("condition", "value", "applies"),
    [
        ("contains", "EXAMPLE", True),
        ("contains", "other", False),
        ("notContains", "other", True),
        ("notContains", "example", False),
        ("beginsWith", "ada@", True),
        ("beginsWith", "bea", False),
        ("endsWith", "@example.org", True),
        ("endsWith", "@example", False),
        ("equals", "ADA@example.org", True),
        ("equals", "ada", False),
        ("notEquals", "ada", True),
        ("notEquals", "ada@example.org", False),
    ],
)
async def test_the_conditions_of_rules(client: httpx.AsyncClient, condition: str, value: str, applies: bool) -> None:
    """Each condition approves exactly when it applies; case does not count unless it is said to."""
    series = await schedule(client, registration={"rules": [rule(condition, value, "approve")]})
    status = (await register(client, series)).json()["status"]
    assert status == ("approved" if applies else "pending")


@pytest.mark.parametrize(
    ("form", "status"),
    [
        pytest.param({"rules": [rule("contains", "ADA", "approve", matchCase=True)]}, "pending", id="case counts"),
        pytest.param({"rules": [rule("contains", "ada", "reject")]}, "rejected", id="reject"),
        pytest.param(
            {"rules": [rule("contains", "a", "approve", order=2), rule("contains", "a", "reject", order=1)]},
            "rejected",
            id="the first in order",
        ),
        pytest.param(
            {"autoAcceptRequest": True, "rules": [rule("contains", "a", "reject")]}, "approved", id="all are accepted"
        ),
    ],
)
async def test_how_rules_decide(client: httpx.AsyncClient, form: dict[str, Any], status: str) -> None:
    """The first rule in order that applies decides; with ``autoAcceptRequest`` there is nothing to decide."""
    series = await schedule(client, registration=form)
    assert (await register(client, series)).json()["status"] == status


@pytest.mark.parametrize(("answer", "status"), [("A", "pending"), ("B", "rejected")])
async def test_questions_have_rules_too(client: httpx.AsyncClient, answer: str, status: str) -> None:
    """A rule of a question judges the answer, and gets its place behind the standard ones."""
    question = {**TEAM, "rules": [{"condition": "equals", "value": "B", "result": "reject"}]}
    form = {"customizedQuestions": [question], "rules": [rule("equals", "x", "approve", order=4)]}
    series = await schedule(client, registration=form)
    shown = (await client.get(f"/v1/meetings/{series}/registration")).json()
    assert shown["customizedQuestions"][0]["rules"][0]["order"] == 5
    option = {"A": 1, "B": 2}[answer]
    body = {"customizedQuestions": [_answered(1, option, answer)]}
    assert (await register(client, series, **body)).json()["status"] == status


# -- the page ----------------------------------------------------------------------------------------------------------

FORM = {
    "requireZipCode": True,
    "customizedQuestions": [
        {**TEAM, "required": True},
        {"question": "Why <b>?", "type": "multiLineTextBox"},
        {"question": "Days", "type": "checkbox", "options": [{"value": "Mon"}, {"value": "Tue"}]},
        {"question": "Meal", "type": "radioButtons", "options": [{"value": "Yes"}]},
        {"question": "Nick", "type": "singleLineTextBox", "maxLength": 10},
    ],
}
FIELDS = {**PERSON, "zipCode": "1010", "question1": "2", "question2": "Because", "question3": ["1", "2"]}


async def test_a_person_registers_in_a_browser(client: httpx.AsyncClient) -> None:
    """The page asks for what the form asks for; sent, it registers, and mail goes out."""
    series = await schedule(client, title="A <script> title", registration=FORM)
    link = (await client.get(f"/v1/meetings/{series}")).json()["registerLink"]
    page = await client.get(link)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for part in ("A &lt;script&gt; title", 'name="zipCode"', "Why &lt;b&gt;?", 'type="radio"', 'maxlength="10"'):
        assert part in page.text
    assert "<script" not in page.text
    assert "will decide" in (await client.post(link, data=FIELDS)).text
    [registrant] = (await client.get(f"/v1/meetings/{series}/registrants")).json()["items"]
    assert (registrant["email"], registrant["zipCode"]) == ("ada@example.org", 1010)
    answers = {each["questionId"]: [a["answer"] for a in each["answers"]] for each in registrant["customizedQuestions"]}
    assert answers == {1: ["B"], 2: ["Because"], 3: ["Mon", "Tue"]}
    assert (await ledger(client))["effects"][registrant["id"]]["outbox"] == {"registered": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"email": "ada"}, "not an e-mail address", id="no address"),
        pytest.param({"email": "known@example.org"}, "have been registered", id="known address"),
        pytest.param({"zipCode": "A-1"}, "must be a number", id="postal code"),
        pytest.param({"question1": ""}, "Question 1 is required", id="unanswered"),
        pytest.param({"question1": "9"}, "no such option", id="option that is none"),
        pytest.param({"firstName": ""}, "firstName is required", id="no name"),
    ],
)
async def test_the_page_says_what_is_wrong(client: httpx.AsyncClient, change: dict[str, str], said: str) -> None:
    """The form comes back with the problem and with what was typed, escaped; nobody is registered."""
    series = await schedule(client, registration={**FORM, "requireZipCode": False})
    await register(client, series, email="known@example.org", customizedQuestions=[_answered(1, 1, "A")])
    again = await client.post(f"/register/{series}", data={**FIELDS, "lastName": '"><i>', **change})
    assert 'role="alert"' in again.text
    assert said in again.text
    assert "&quot;&gt;&lt;i&gt;" in again.text
    assert len(await statuses(client, series)) == 1


@pytest.mark.parametrize(
    ("registration", "path"), [(None, "{}"), ({}, "0" * 32), ({}, "x")], ids=["no form", "unknown", "no id"]
)
async def test_there_is_no_page_without_a_form(client: httpx.AsyncClient, registration: Any, path: str) -> None:
    """A meeting without registration, or none at all, has no page."""
    series = await schedule(client, registration=registration)
    assert (await client.get(f"/register/{path.format(series)}")).status_code in (400, 404)


async def test_the_page_is_gone_when_the_meeting_is_over(client: httpx.AsyncClient, clock: Clock) -> None:
    """And takes nobody."""
    series = await schedule(client)
    clock.advance(days=2)
    assert (await client.get(f"/register/{series}")).status_code == 404
    assert (await client.post(f"/register/{series}", data=PERSON)).status_code == 404
