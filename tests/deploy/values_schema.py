"""The part of the chart's ``values.schema.json`` that is about ``config``: made of the program's own settings.

``python -m tests.deploy.values_schema --write`` writes it anew; without ``--write`` it ends with 1 where it is not current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BeforeValidator

from service.settings import Settings
from tests.deploy.render import CHART

Schema = dict[str, Any]

SCHEMA = CHART / "values.schema.json"

#: The settings that the chart sets itself, and secrets. They pass the schema, since a sentence of the chart refuses them and
#: says where they stand (templates/_validate.tpl).
CHART_OWNED = frozenset(
    {
        *("bus", "kafka.bootstrap_servers", "kafka.topic_prefix", "kafka.group", "kafka.instance_id"),
        *("kafka.security_protocol", "kafka.sasl", "kafka.ca_file", "kafka.cert_file", "kafka.key_file"),
        *("journal.enabled", "journal.path", "journal.max_mib", "receiver.port", "admin.port"),
        *("webhook.secrets_dir", "webhook.secret", "policy.file"),
        *("webex.token", "webex.service_app.caller.token", "webex.organizations.<name>.token"),
    }
)
#: The simulated Webex is no role of the chart.
LEFT_OUT = frozenset({"sandbox"})
#: What Helm's messages do not need. Defaults are those of the program and not always those of the chart.
_NOISE = ("$defs", "title", "default", "format", "writeOnly")


def of_config() -> Schema:
    """What may stand below ``config``: strict at each level."""
    whole = Settings.model_json_schema()
    made = _of(whole, whole["$defs"], "")
    return {**made, "description": "The program's own settings: docs/reference/settings.md."}


def _of(given: Mapping[str, Any], definitions: Mapping[str, Schema], place: str) -> Schema:
    """One setting, or a group of them, with everything in its place that is referred to."""
    if place in CHART_OWNED:
        return {"description": "Refused with a sentence: the chart sets it, or it is a secret."}
    if "$ref" in given:
        referred = definitions[given["$ref"].rpartition("/")[2]]
        return _of({**referred, **{name: given[name] for name in given if name != "$ref"}}, definitions, place)
    merged = _without_null(given)
    schema = {name: value for name, value in merged.items() if name not in _NOISE}
    if merged.get("format") == "path":
        schema["minLength"] = 1
    for name in schema.keys() & {"properties", "patternProperties"}:
        schema["additionalProperties"] = False
        schema[name] = dict(_below(name, schema[name], definitions, place))
    return _or_a_list(schema) if place in LISTS else schema


def _below(
    kind: str, given: Mapping[str, Schema], definitions: Mapping[str, Schema], place: str
) -> Iterator[tuple[str, Schema]]:
    """What is in a group; a name that the operator chooses stands as ``<name>`` in a place."""
    for name, each in given.items():
        here = ".".join(filter(None, (place, "<name>" if kind == "patternProperties" else name)))
        if here not in LEFT_OUT:
            yield name, _of(each, definitions, here)


def _without_null(given: Mapping[str, Any]) -> Schema:
    """``anyOf`` something and null, as one: Helm then says what is wrong instead of "anyOf failed"."""
    if "anyOf" not in given:
        return dict(given)
    (something,) = (each for each in given["anyOf"] if each != {"type": "null"})
    others = {name: value for name, value in given.items() if name != "anyOf"}
    return {**something, **others, "type": [something["type"], "null"]}


def _or_a_list(schema: Schema) -> Schema:
    """The program takes a list in place of a text with commas."""
    return {**schema, "type": [schema["type"], "array"], "items": {"type": "string"}}


def _lists() -> frozenset[str]:
    """Settings that a validator of ours makes a text of."""
    return frozenset(
        f"{group}.{name}"
        for group, of_group in Settings.model_fields.items()
        for name, field in getattr(of_group.annotation, "model_fields", {}).items()
        if field.annotation is str and any(isinstance(each, BeforeValidator) for each in field.metadata)
    )


LISTS = _lists()


def current() -> str:
    """The whole file as it should be."""
    whole = json.loads(SCHEMA.read_text("utf-8"))
    whole["properties"]["config"] = of_config()
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write it, or say whether it is current."""
    text = current()
    if "--write" in arguments:
        SCHEMA.write_text(text, "utf-8")
    return int(text != SCHEMA.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
