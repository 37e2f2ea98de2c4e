"""What the profile `obs` of compose.yaml mounts: Prometheus' file by promtool, and those of Grafana and of the collector as
far as can be told without them.

Grafana reads over a key that it does not know, and the collector does not start with one. Neither can be had without a registry
of images, so the keys that they know stand here, from their manuals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.render import CHART, ROOT, run

DEPLOY = ROOT / "deploy"
CONFIGURED = DEPLOY / "compose"
#: Where the compose file has the rules in Prometheus' container.
RULES_INSIDE, RULES = "/etc/prometheus/rules/", CHART / "files" / "rules"
#: The program's own private port.
ADMIN = 9090


def _read(name: str) -> Any:
    return yaml.safe_load((CONFIGURED / name).read_text("utf-8"))


def _service(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"][name]


def _mounted(service: str) -> dict[str, Path]:
    """Path in the container → what stands there."""
    mounts = (mount.split(":") for mount in _service(service)["volumes"])
    return {target: (DEPLOY / source).resolve() for source, target, *_ in mounts if source.startswith(".")}


# --- Prometheus -------------------------------------------------------------------------------------------------------


def test_prometheus_takes_its_file_and_finds_the_rules(tmp_path: Path) -> None:
    """With the rules where they are here."""
    file = tmp_path / "prometheus.yaml"
    file.write_text((CONFIGURED / "prometheus.yaml").read_text("utf-8").replace(RULES_INSIDE, f"{RULES}/"), "utf-8")

    said = run("promtool", "check", "config", file)

    assert "1 rule files found" in said
    assert f"Checking {RULES / 'webex-events.yaml'}" in said


def test_what_its_command_and_its_file_name_is_mounted() -> None:
    """The compose file and its own name the same places."""
    mounted = _mounted("prometheus")

    assert mounted[RULES_INSIDE.rstrip("/")] == RULES
    assert _read("prometheus.yaml")["rule_files"] == [f"{RULES_INSIDE}*.yaml"]
    (file,) = (
        word.partition("=")[2] for word in _service("prometheus")["command"] if word.startswith("--config.file=")
    )
    assert mounted[file] == CONFIGURED / "prometheus.yaml"


def _targets(scraped: Any) -> Iterator[str]:
    for job in scraped:
        for group in job["static_configs"]:
            yield from group["targets"]


def test_both_roles_are_read_where_they_listen() -> None:
    """By Prometheus and by the collector; and as a cluster would name them, since rules and dashboards choose by that."""
    jobs = _read("prometheus.yaml")["scrape_configs"]
    collected = _read("otel-collector.yaml")["receivers"]["prometheus"]["config"]["scrape_configs"]

    expected = [f"{role}:{ADMIN}" for role in ("processor", "receiver")]
    assert sorted(_targets(jobs)) == sorted(_targets(collected)) == expected
    assert all(_service(target.partition(":")[0])["command"][0] == "serve" for target in _targets(jobs))
    assert all("webex-events" in job["job_name"] for job in jobs)
    assert all(group["labels"]["namespace"] for job in jobs for group in job["static_configs"])


# --- Grafana ----------------------------------------------------------------------------------------------------------


def _file_of(name: str, of_each: Mapping[str, object], *required: str) -> dict[str, object]:
    each = {"type": "object", "properties": of_each, "required": [*required], "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"apiVersion": {"const": 1}, name: {"type": "array", "items": each, "minItems": 1}},
        "required": ["apiVersion", name],
        "additionalProperties": False,
    }


def _of(type_: str, *names: str) -> dict[str, object]:
    return {name: {"type": type_} for name in names}


#: https://grafana.com/docs/grafana/latest/administration/provisioning/
PROVISIONED = {
    "datasources": _file_of(
        "datasources",
        {
            **_of("string", "name", "uid", "url", "user", "database", "basicAuthUser"),
            **_of("boolean", "basicAuth", "withCredentials", "isDefault", "editable"),
            **_of("object", "jsonData", "secureJsonData"),
            **_of("integer", "orgId", "version"),
            "type": {"const": "prometheus"},
            "access": {"enum": ["proxy", "direct"]},
        },
        *("name", "type", "uid", "access", "url"),
    ),
    "dashboards": _file_of(
        "providers",
        {
            **_of("string", "name", "folder", "folderUid"),
            **_of("boolean", "disableDeletion", "allowUiUpdates"),
            **_of("integer", "orgId", "updateIntervalSeconds"),
            "type": {"const": "file"},
            "options": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "foldersFromFilesStructure": {"type": "boolean"}},
                "required": ["path"],
                "additionalProperties": False,
            },
        },
        *("name", "type", "options"),
    ),
}


@pytest.mark.parametrize("kind", PROVISIONED)
def test_grafana_is_told_what_it_knows(kind: str) -> None:
    """In the folder where it looks, and files with an ending that it reads."""
    folder = _mounted("grafana")[f"/etc/grafana/provisioning/{kind}"]
    files = list(folder.iterdir())

    assert {file.suffix for file in files} == {".yaml"}
    for file in files:
        jsonschema.Draft7Validator(PROVISIONED[kind]).validate(yaml.safe_load(file.read_text("utf-8")))


def test_a_key_that_grafana_would_read_over_is_found() -> None:
    """At both levels."""
    given = _read("grafana/datasources/prometheus.yaml")
    validator = jsonschema.Draft7Validator(PROVISIONED["datasources"])

    assert not validator.is_valid({**given, "datasource": []})
    assert not validator.is_valid({**given, "datasources": [{**given["datasources"][0], "isdefault": True}]})


def test_its_data_source_is_the_prometheus_beside_it() -> None:
    """One, the default, asked as often as it has something new; and of the type that dashboards let one choose from."""
    (source,) = _read("grafana/datasources/prometheus.yaml")["datasources"]

    assert not any("--web.listen-address" in word for word in _service("prometheus")["command"])
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    assert source["jsonData"] == {"timeInterval": _read("prometheus.yaml")["global"]["scrape_interval"]}
    for path in CHART.glob("files/dashboards/*.json"):
        variables = json.loads(path.read_text("utf-8"))["templating"]["list"]
        assert [each["query"] for each in variables if each["type"] == "datasource"] == [source["type"]]


def test_its_dashboards_are_those_of_the_chart() -> None:
    """Where the provider looks for them."""
    (provider,) = _read("grafana/dashboards/webex-events.yaml")["providers"]

    assert _mounted("grafana")[provider["options"]["path"]] == CHART / "files" / "dashboards"


# --- the collector ----------------------------------------------------------------------------------------------------

#: Of what is used: https://github.com/open-telemetry/opentelemetry-collector, the README of each.
COMPONENTS = {
    "receivers.prometheus": {"config"},
    "processors.memory_limiter": {
        *("check_interval", "limit_mib", "limit_percentage", "spike_limit_mib", "spike_limit_percentage"),
    },
    "processors.batch": {"timeout", "send_batch_size", "send_batch_max_size", "metadata_keys"},
    "exporters.debug": {"verbosity", "sampling_initial", "sampling_thereafter", "use_internal_logger"},
}


def _collector() -> Any:
    """As it would read it."""
    (file,) = (word.partition("=")[2] for word in _service("otel-collector")["command"] if word.startswith("--config="))
    return yaml.safe_load(_mounted("otel-collector")[file].read_text("utf-8"))


def test_the_collector_is_told_what_it_knows() -> None:
    """Every component and each of its keys."""
    given = _collector()
    used = {
        f"{kind}.{name}": each
        for kind in ("receivers", "processors", "exporters")
        for name, each in given[kind].items()
    }

    assert given.keys() == {"receivers", "processors", "exporters", "service"}
    assert used.keys() == COMPONENTS.keys()
    assert {name: set(each) - COMPONENTS[name] for name, each in used.items() if set(each) - COMPONENTS[name]} == {}


def test_every_component_is_in_a_pipeline_and_the_other_way_round() -> None:
    """One that is only defined does nothing; memory is limited before anything is kept."""
    given = _collector()
    pipelines = given["service"]["pipelines"].values()

    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipeline in pipelines for name in pipeline[kind]} == set(given[kind])
    assert all(pipeline["processors"][0] == "memory_limiter" for pipeline in pipelines)


def test_what_the_collector_reads_by_prometheus_takes() -> None:
    """Its receiver is Prometheus' own scraping, and has its configuration."""
    config = yaml.safe_dump(_collector()["receivers"]["prometheus"]["config"])

    run("promtool", "check", "config", "--syntax-only", "/dev/stdin", text=config)
