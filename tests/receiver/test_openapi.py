"""The document that we publish of the endpoint: it is a good one, it is complete, and the endpoint keeps to it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import service.receiver
from service.core.errors import RequestRefused
from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, STORED, Answer, problem, refused
from service.receiver.endpoint import PATH
from service.receiver.framing import Refusal
from tests.fakes import RecordingPublisher
from tests.fuzz.document import DOCUMENT, judged, served
from tests.receiver.conftest import SECRET, Bench

pytestmark = pytest.mark.timeout(300)

OPENAPI: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
ROUTE: dict[str, Any] = OPENAPI["paths"][PATH]
RESPONSES: dict[str, Any] = {
    **ROUTE["post"]["responses"],
    **ROUTE["x-other-methods"],
    **OPENAPI["paths"]["x-other-paths"],
}


def resolved(value: Any) -> Any:
    """What a reference refers to; anything else as it is."""
    while isinstance(value, Mapping) and "$ref" in value:
        place: Any = OPENAPI
        for step in value["$ref"].removeprefix("#/").split("/"):
            place = place[step]
        value = place
    return value


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of the document."""
    if isinstance(value, Mapping):
        yield value
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from nodes(child)


def test_every_reference_leads_somewhere() -> None:
    """And everything among the components is referred to."""
    references = {node["$ref"] for node in nodes(OPENAPI) if "$ref" in node}
    assert all(resolved({"$ref": each}) for each in references)
    components = {f"#/components/{kind}/{name}" for kind, those in OPENAPI["components"].items() for name in those}
    assert components == references


def test_every_schema_is_one() -> None:
    """By JSON Schema's own schema; and the example fits."""
    for schema in [node["schema"] for node in nodes(OPENAPI) if "schema" in node]:
        jsonschema.Draft202012Validator.check_schema(schema)
    notification = OPENAPI["components"]["schemas"]["Notification"]
    for example in notification["examples"]:
        jsonschema.Draft202012Validator(notification).validate(example)


# --- it is complete ---------------------------------------------------------------------------------------------------


def refusals() -> list[type[RequestRefused]]:
    """Every one that the receiver may answer with; a subclass may stand in any of its modules."""
    for module in pkgutil.walk_packages(service.receiver.__path__, "service.receiver."):
        importlib.import_module(module.name)
    found, pending = list[type[RequestRefused]](), RequestRefused.__subclasses__()
    while pending:
        found.append(one := pending.pop())
        pending.extend(one.__subclasses__())
    return found


def answers() -> list[tuple[str, Answer]]:
    """Every answer, by a name for it: of the endpoint, of the guard, and of the routing."""
    ours = [(each.__name__, refused(each())) for each in refusals()]
    headers = ((b"retry-after", b"5"),)
    theirs = [
        (each.reason, problem(each.status, detail=each.detail, headers=headers if each.status == 503 else ()))
        for each in Refusal
    ]
    routing = [("noSuchRoute", NO_SUCH_ROUTE), ("noSuchMethod", NO_SUCH_METHOD), ("stored", STORED)]
    return sorted(dict((*ours, *theirs, *routing)).items())


def test_the_document_names_every_status_and_no_other() -> None:
    """What the product can answer on that listener is what the document says, neither more nor less."""
    assert len(refusals()) >= 10
    given = {str(int(answer.status)) for _, answer in answers()}
    assert given == set(RESPONSES)


@pytest.mark.parametrize(("name", "answer"), answers(), ids=[name for name, _ in answers()])
def test_an_answer_is_as_the_document_says(name: str, answer: Answer) -> None:
    """Body, media type and headers of each fit the response of its status."""
    assert list(problems_of(answer)) == []


def problems_of(answer: Answer) -> Iterator[str]:
    """What the document says otherwise."""
    response = resolved(RESPONSES[str(int(answer.status))])
    given = {name.decode(): value.decode() for name, value in answer.headers}
    expected = {name.lower(): resolved(header) for name, header in response.get("headers", {}).items()}
    yield from (f"{name} is missing" for name in expected.keys() - given.keys())
    yield from (f"{name} is not named" for name in given.keys() - expected.keys() - {"content-type", "content-length"})
    for name, header in expected.items():
        value: Any = given.get(name, "")
        value = int(value) if header["schema"].get("type") == "integer" and value.isdigit() else value
        yield from (f"{name}: {each.message}" for each in validator(header["schema"]).iter_errors(value))
    content = response.get("content", {})
    if set(content) != {given[name] for name in ("content-type",) if name in given}:
        yield f"of type {given.get('content-type')}"
    for media in content.values():
        yield from (each.message for each in validator(media["schema"]).iter_errors(json.loads(answer.body)))


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """With the document's components within reach."""
    return jsonschema.Draft202012Validator({**schema, "components": OPENAPI["components"]})


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(problem(503), "retry-after is missing", id="a header less"),
        pytest.param(problem(405, headers=((b"allow", b"GET"),)), "allow: ", id="another value"),
        pytest.param(problem(401, headers=((b"x-more", b"1"),)), "x-more is not named", id="a header more"),
        pytest.param(Answer(401, ((b"content-type", b"text/html"),), b"{}"), "of type text/html", id="another type"),
        pytest.param(Answer(401, problem(401).headers, problem(403).body), "401 was expected", id="another status"),
        pytest.param(Answer(204, problem(401).headers, b""), "content-type", id="a body where there is none"),
    ],
)
def test_an_answer_that_is_not_would_be_found(answer: Answer, sentence: str) -> None:
    """The comparison can fail."""
    assert any(sentence in each or each.startswith("of type") for each in problems_of(answer))


# --- the endpoint keeps to it -----------------------------------------------------------------------------------------


@pytest.fixture
def _schemathesis() -> None:
    if importlib.util.find_spec("schemathesis") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("schemathesis is not installed: nobody fuzzes the endpoint", pytrace=False)
        pytest.skip("schemathesis is not installed: nobody fuzzes the endpoint")


@pytest.mark.usefixtures("_schemathesis")
@pytest.mark.parametrize("direct", [False, True], ids=["the application", "the direct way"])
async def test_no_request_gets_an_answer_that_breaks_the_document(direct: bool, tmp_path: Path) -> None:
    """Right and wrong requests, signed and not, over a socket and through the guard: only answers that the document knows."""
    bench = Bench()
    async with served(bench.endpoint(), direct=direct) as url:
        code, said = await judged(url, secret=SECRET, requests=100, folder=tmp_path)
    assert code == 0, said[-12_000:]
    assert "Tested: 1" in said
    assert len(bench.publisher.batches) > 30


@pytest.mark.usefixtures("_schemathesis")
async def test_a_violation_would_be_found(tmp_path: Path) -> None:
    """A receiver that cannot store fails the run, and so does one that takes nothing."""
    bench = Bench(publisher=RecordingPublisher(error=RuntimeError()))
    async with served(bench.endpoint(), direct=True) as url:
        code, said = await judged(url, secret=SECRET, requests=20, folder=tmp_path)
    assert code == 1
    assert "Server error" in said
