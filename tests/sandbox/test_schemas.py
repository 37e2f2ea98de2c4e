"""Answers of the simulated Webex against the schemas of Cisco's OpenAPI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.sandbox.simulated import batch, client_of, listed, meeting_body, opened, people, schedule

_DEFAULT = Path(__file__).parents[2] / "../shared/webex-openapi.json"


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    """Cisco's OpenAPI from ``WEBEX_OPENAPI``; it is not part of this repository."""
    path = Path(os.environ.get("WEBEX_OPENAPI") or _DEFAULT)
    if not path.is_file():
        if os.environ.get("CI") == "true":
            pytest.fail("WEBEX_OPENAPI names no file: the answers cannot be checked against Cisco's schemas")
        pytest.skip("WEBEX_OPENAPI names no file: not checked against Cisco's schemas")
    return dict(json.loads(path.read_text()))


def check(openapi: dict[str, Any], operation_id: str, response: httpx.Response) -> None:
    """The body fits the schema of the operation's answer, and the status is one that Cisco lists."""
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    [operation] = [operation for operation in operations if operation.get("operationId") == operation_id]
    answers = operation["responses"]
    assert str(response.status_code) in answers
    content = answers[str(response.status_code)].get("content") or {}
    if not content:
        assert response.content == b"" or response.is_error
        return
    [media] = content.values()
    schema = {**media["schema"], "components": openapi["components"]}
    jsonschema.Draft202012Validator(schema).validate(response.json())


async def test_answers_fit_ciscos_schemas(openapi: dict[str, Any]) -> None:
    """What every operation answers, and one error of each kind, validates; an object without its required fields would not."""
    question = {"question": "Team", "type": "dropdownList", "options": [{"value": "A"}]}
    form = {"autoAcceptRequest": False, "customizedQuestions": [question]}
    with opened() as world:
        async with client_of(world) as client:
            created = await client.post("/v1/meetings", json=meeting_body(agenda="Agenda", registration=form))
            check(openapi, "createMeeting", created)
            series = created.json()["id"]
            path = f"/v1/meetings/{series}"
            check(openapi, "patchMeeting", await client.patch(path, json={"title": "Other"}))
            await people(client, series, 12)
            await client.post(f"/sandbox/meetings/{await schedule(client)}/start")
            for kind in ("meetingSeries", "scheduledMeeting", "meeting"):
                query = {"meetingType": kind, "from": "2026-01-10T09:00:00Z"}
                meetings = await client.get("/v1/meetings", params=query)
                assert meetings.json()["items"]
                check(openapi, "listMeetings", meetings)
            for id_ in (series, f"{series}_20260111T090000Z"):
                check(openapi, "getMeetingById", await client.get(f"/v1/meetings/{id_}"))
            await _check_registrants(openapi, client, series)
            check(openapi, "createMeeting", await client.post("/v1/meetings", json={}))
            check(openapi, "deleteMeeting", await client.delete(path))
            check(openapi, "getMeetingById", await client.get(path))
    with pytest.raises(jsonschema.ValidationError):
        check(openapi, "createMeeting", httpx.Response(200, json={"id": series}))


async def _check_registrants(openapi: dict[str, Any], client: httpx.AsyncClient, series: str) -> None:
    path = f"/v1/meetings/{series}/registrants"
    check(openapi, "listMeetingRegistrants", await client.get(path))
    registrants = await listed(client, series)
    check(openapi, "getRegistrant", await client.get(f"{path}/{registrants[0]['id']}"))
    query = {"emails": [registrant["email"] for registrant in registrants]}
    check(openapi, "queryMeetingRegistrants", await client.post(f"{path}/query", json=query))
    answers = [{"questionId": 1, "answers": [{"optionId": 1, "answer": "A"}]}]
    people_ = [
        {"firstName": "Ada", "lastName": "Abel", "email": f"ada.{n}@example.org", "customizedQuestions": answers}
        for n in range(3)
    ]
    check(openapi, "createRegistrant", await client.post(path, json=people_[0]))
    check(openapi, "createRegistrants", await client.post(f"{path}/bulkInsert", json={"items": people_[1:]}))
    ids = [registrant["id"] for registrant in registrants]
    for verb, operation in (
        ("approve", "Approve"),
        ("reject", "Reject"),
        ("cancel", "Cancel"),
        ("bulkDelete", "Delete"),
    ):
        answer = await batch(client, series, verb, ids[:2])
        check(openapi, f"batch{operation}MeetingRegistrants", answer)
    check(openapi, "deleteRegistrant", await client.delete(f"{path}/{ids[3]}"))
