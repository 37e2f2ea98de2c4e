"""Cisco's OpenAPI document of the Webex API, as the contract tests ask it.

The document is Cisco's (CC BY 4.0) and no part of this repository.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import jsonschema

#: Where the document is, unless ``WEBEX_OPENAPI`` says.
DEFAULT = Path(__file__).parents[2] / "../shared/webex-openapi.json"

Schema = Mapping[str, Any]


def where() -> Path:
    """The document's path; there may be no file."""
    return Path(os.environ.get("WEBEX_OPENAPI") or DEFAULT)


@dataclass(frozen=True)
class Described:
    """One operation of the document."""

    method: str
    path: str
    operation: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its operationId."""
        return str(self.operation["operationId"])

    @property
    def parameters(self) -> list[Mapping[str, Any]]:
        """Path, query and header parameters."""
        return list(self.operation.get("parameters", ()))

    @property
    def success(self) -> tuple[int, str, Mapping[str, Any]]:
        """The status of a success, its media type ("" without a body), and what the document says of the body."""
        [(status, answer)] = [item for item in self.operation["responses"].items() if item[0].startswith("2")]
        [(media, content)] = (answer.get("content") or {"": {}}).items()
        return int(status), media, content

    @property
    def body(self) -> tuple[str, Mapping[str, Any]]:
        """The media type of the request body ("" without one), and what the document says of it."""
        [(media, content)] = (self.operation.get("requestBody", {}).get("content") or {"": {}}).items()
        return media, content

    def matches(self, request: httpx.Request, *, prefix: str) -> dict[str, str] | None:
        """The path parameters of ``request``, None where it is another operation's."""
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(prefix + self.path))
        match = re.fullmatch(pattern, request.url.raw_path.partition(b"?")[0].decode())
        if request.method != self.method or not match:
            return None
        return {name: unquote(value) for name, value in match.groupdict().items()}


class Document:
    """The document, and what a request has to be for it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        _amend(document)
        self.schemas: Mapping[str, Schema] = document["components"]["schemas"]
        self._components = _closed(document["components"])
        self.operations = [
            Described(method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]

    @classmethod
    def read(cls, path: Path) -> Document:
        """The document in that file."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def operation(self, id_: str) -> Described:
        """The operation with this operationId."""
        [found] = [each for each in self.operations if each.id == id_]
        return found

    def resolved(self, schema: Schema) -> Schema:
        """The schema that a ``$ref`` means."""
        reference = schema.get("$ref")
        return self.schemas[reference.rsplit("/", 1)[1]] if reference else schema

    def complaints(self, id_: str, request: httpx.Request, *, prefix: str) -> list[str]:
        """What is wrong with ``request`` as one of operation ``id_``. Fields that the document does not name count."""
        described = self.operation(id_)
        path = described.matches(request, prefix=prefix)
        if path is None:
            return [f"{request.method} {request.url.path} is not {described.method} {described.path}"]
        query = parse_qsl(request.url.query.decode(), keep_blank_values=True, strict_parsing=bool(request.url.query))
        given = {"path": list(path.items()), "query": query, "header": list(request.headers.items())}
        return [
            *(complaint for place in given for complaint in _parameters(described, place, given[place])),
            *self._body(described, request),
        ]

    def _body(self, described: Described, request: httpx.Request) -> Iterator[str]:
        media, content = described.body
        if not request.content:
            if described.operation.get("requestBody", {}).get("required") or self.required(content):
                yield "no body"
            return
        if not media or request.headers.get("content-type") != media:
            yield f"a body of type {request.headers.get('content-type')}, not {media or 'none'}"
            return
        schema = {**_closed(content["schema"]), "components": self._components}
        for error in jsonschema.Draft202012Validator(schema).iter_errors(json.loads(request.content)):
            yield f"body: {error.json_path}: {error.message}"

    def required(self, content: Mapping[str, Any]) -> list[str]:
        """The fields that a body of this content must have."""
        return list(self.resolved(content.get("schema", {})).get("required") or ())


def _amend(value: Any) -> None:
    """Cisco's examples and text of a registration form have ``enabledRegistrationId``; its schemas forgot it."""
    if isinstance(value, dict):
        properties = value.get("properties")
        if isinstance(properties, dict) and "autoAcceptRequest" in properties:
            properties["enabledRegistrationId"] = {"type": "boolean"}
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _amend(child)


def _parameters(described: Described, place: str, given: list[tuple[str, str]]) -> Iterator[str]:
    known = {parameter["name"]: parameter for parameter in described.parameters if parameter["in"] == place}
    if place == "header":  # the others are HTTP's own; names have no case
        known = {name.lower(): parameter for name, parameter in known.items()}
        given = [(name, value) for name, value in given if name in known]
    names = [name for name, _ in given]
    yield from (f"{place}: no parameter {name}" for name in names if name not in known)
    yield from (f"{place}: {name} twice" for name in set(names) if names.count(name) > 1)
    yield from (
        f"{place}: {name} is missing" for name, each in known.items() if each.get("required") and name not in names
    )
    for name, value in given:
        if name in known and not _fits(known[name]["schema"], value):
            yield f"{place}: {name} is not of its type, or no choice"


def _fits(schema: Schema, value: str) -> bool:
    shapes = {"string": r".+", "boolean": r"true|false", "number": r"\d+", "integer": r"\d+"}
    return re.fullmatch(shapes[schema["type"]], value) is not None and value in schema.get("enum", [value])


def _closed(value: Any) -> Any:
    """A copy in which every object has only the properties that are named, so that a misspelt one shows."""
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {name: _closed(item) for name, item in value.items()}
    if isinstance(copy.get("properties"), dict) and "type" in copy:
        copy.setdefault("additionalProperties", False)
    return copy
