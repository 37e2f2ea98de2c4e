"""The chart, by helm and the programs that look at charts."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.render import (
    CHART,
    KUBERNETES,
    ROOT,
    CannotRender,
    Rendering,
    extensions,
    helm,
    kubeconform,
    name_of,
    names,
    objects_of,
    of_kind,
    parse,
    rendered,
    run,
    tried,
    values_of,
)
from tests.deploy.tools import tool

HERE = Path(__file__).parent
#: kube-score's best grade.
FLAWLESS = 10

#: What kube-score would have otherwise than we do, and why.
NOT_WANTED = {
    "container-resources": "it wants a limit of CPU, which slows a pod down on a node that has nothing else to do",
    "container-image-pull-policy": "a version is never moved, so `IfNotPresent` gets the same one, without the registry",
    "statefulset-has-host-podantiaffinity": "topologySpreadConstraints do that, and say how far",
    "deployment-has-host-podantiaffinity": "likewise",
    "pod-networkpolicy": "off by default: who may be let in is only known to who installs it",
    "container-security-context-user-group-id": "OpenShift gives the numbers",
}
#: Two of them hold for some values only.
ONLY_OF = {"pod-networkpolicy": r"(?!production|airgap).*", "container-security-context-user-group-id": "openshift"}


def test_there_are_values_to_check_with() -> None:
    """Most tests here have one case for each file."""
    assert len(names()) >= 5


# --- by helm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", names())
def test_helm_has_nothing_to_say(name: str, kubernetes: str) -> None:
    """A warning is a failure."""
    helm("helm4", "lint", str(CHART), "--strict", "--kube-version", f"{kubernetes}.0", "--values", str(values_of(name)))


def test_an_older_kubernetes_is_refused() -> None:
    """`sleep` in preStop is there from 1.30 on."""
    with pytest.raises(CannotRender, match="incompatible with Kubernetes"):
        Rendering(values=values_of(names()[0]), kubernetes="1.29").text()


def test_units_of_the_chart() -> None:
    """The suites that stand beside it."""
    said = run("helm-unittest", "--strict", CHART)

    assert re.search(r"Tests:\s+\d+ passed", said), said


def test_the_readme_is_that_of_the_values(tmp_path: Path) -> None:
    """`helm-docs` was run after values.yaml was changed."""
    shutil.copytree(CHART, tmp_path / CHART.name)
    run("helm-docs", "--chart-search-root", tmp_path, "--log-level", "warning")

    made = (tmp_path / CHART.name / "README.md").read_text("utf-8")
    assert made == (CHART / "README.md").read_text("utf-8")


def test_chart_testing_has_nothing_to_say() -> None:
    """Chart.yaml by a schema, both files by yamllint, and every set of values by helm."""
    beside = (tool("helm4").parent, Path(sys.executable).parent)
    arguments = ("--chart-yaml-schema", HERE / "ct" / "chart_schema.yaml", "--lint-conf", HERE / "ct" / "lintconf.yaml")
    checks = ("--check-version-increment=false", "--validate-maintainers=false", "--helm-lint-extra-args=--quiet")
    path = os.pathsep.join((*map(str, beside), os.environ["PATH"]))
    said = run("ct", "lint", "--charts", CHART, *arguments, *checks, environ={"PATH": path})

    assert "All charts linted successfully" in said


# --- against the schemas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", names())
def test_objects_have_the_fields_that_kubernetes_knows(name: str, kubernetes: str) -> None:
    """All of them: an object without a schema would be left out in silence."""
    verdict = kubeconform(rendered(name, kubernetes), kubernetes)

    assert verdict["resources"] == []
    assert verdict["summary"] == {
        "valid": len(objects_of(name, kubernetes)),
        "invalid": 0,
        "errors": 0,
        "skipped": 0,
    }


@pytest.mark.parametrize(
    "fault",
    [
        {"spec": {"terminationGracePeriodSecond": 5}},
        {"spec": {"containers": [{"name": "x", "ports": [{"containerPort": "80"}]}]}},
        {"metadata": {"lables": {}}},
    ],
)
@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_the_schemas_find_what_was_planted(fault: dict[str, Any], kubernetes: str) -> None:
    """A field that does not exist, one of the wrong type, one outside of the spec."""
    good = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "x"}]}}

    assert kubeconform(json.dumps(good), kubernetes)["summary"]["valid"] == 1
    assert kubeconform(json.dumps(good | fault), kubernetes)["summary"]["invalid"] == 1


def test_the_schemas_of_extensions_find_what_was_planted() -> None:
    """Of each kind that the chart uses beyond Kubernetes' own."""
    for each in extensions():
        group, version, kind = each.split("/")
        fault = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "x"}, "spex": {}}
        summary = kubeconform(json.dumps(fault), KUBERNETES[0])["summary"]
        assert (summary["invalid"], summary["skipped"]) == (1, 0), each


def kube_score(name: str) -> list[tuple[str, str, str]]:
    """What it complains about: the check, the object, and its words."""
    done = tried("kube-score", "score", "--output-format", "json", "-", text=yaml.safe_dump_all(objects_of(name)))
    return [
        (check["check"]["id"], each["object_name"], comment["summary"])
        for each in json.loads(done.stdout)
        for check in each["checks"]
        if not check["skipped"] and check["grade"] < FLAWLESS
        for comment in check["comments"] or [{"summary": ""}]
    ]


@pytest.mark.parametrize("name", names())
def test_kube_score_has_nothing_to_say(name: str) -> None:
    """Beside what is not wanted, with a reason."""
    ignored = {check for check in NOT_WANTED if re.fullmatch(ONLY_OF.get(check, ".*"), name)}

    assert [complaint for complaint in kube_score(name) if complaint[0] not in ignored] == []


def test_everything_that_is_not_wanted_is_complained_about() -> None:
    """Else it need not be in the list."""
    found = {check for name in names() for check, *_ in kube_score(name)}

    assert found == set(NOT_WANTED)


# --- the values -------------------------------------------------------------------------------------------------------

#: Kubernetes' own objects among the defaults, and what charts share: there, other keys are the operator's business.
FREE = (
    "global",
    r".*\.resources(\..*)?",
    r".*\.probes\.\w+",
    r".*[sS]ecurityContext(\..*)?",
    r".*\.behavior(\..*)?",
    r".*\.(labels|annotations|matchLabels)",
    r".*\.(timeouts|fallback|podSelector|namespaceSelector|ipBlock)",
)


def _values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))


def _schema() -> dict[str, Any]:
    return dict(json.loads((CHART / "values.schema.json").read_text("utf-8")))


def _groups(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every map that has something in it."""
    yield path
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _groups(value, (*path, name))


def test_the_schema_is_one() -> None:
    """By the schema of schemas."""
    run("check-jsonschema", "--check-metaschema", CHART / "values.schema.json")


def test_the_defaults_fit_the_schema() -> None:
    """As far as there are defaults: what is needed has none, and is asked for by a sentence."""
    jsonschema.Draft7Validator(_schema()).validate(_values())


def _is_free(group: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, ".".join(group)) for pattern in FREE)


@pytest.mark.parametrize("group", [".".join(group) for group in _groups(_values()) if not _is_free(group)])
def test_a_key_that_does_not_exist_is_refused(group: str) -> None:
    """A misspelt value would otherwise be a default in disguise."""
    values = _values()
    at: Any = values
    for name in filter(None, group.split(".")):
        at = at[name]
    at["noSuchKey"] = True

    assert [*jsonschema.Draft7Validator(_schema()).iter_errors(values)] != []


def _templates() -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted((CHART / "templates").rglob("*.*")))


def test_every_value_that_templates_use_exists() -> None:
    """As far as it is written out."""
    values = _values()
    used = sorted(set(re.findall(r"\.Values\.(\w+(?:\.\w+)*)", _templates())))

    assert len(used) > 20
    assert [path for path in used if not _is_there(values, path.split("."))] == []


def _is_there(values: Any, path: list[str]) -> bool:
    """What stands below an empty map, or is the method of a value, is not ours to know."""
    if not path or not isinstance(values, Mapping) or not values:
        return True
    return path[0] in values and _is_there(values[path[0]], path[1:])


#: What templates that are given a group of values call it, or are called.
GIVEN_AS = {
    "journal": "volume",
    "state": "volume",
    "webex": "egress",
    "podMonitor": "endpoint",
    "serviceMonitor": "endpoint",
    "serviceAccounts": "role",
    "processor": "role",
}


def test_every_value_is_used() -> None:
    """One that does nothing promises something. As `group.key`, or as `.key` by a template that is given the group."""
    values = _values()
    blocks = list(_blocks())
    paths = [(*group, name) for group in _groups(values) if not _is_free(group) for name in _at(values, group)]

    assert len(paths) > 200
    assert [".".join(path) for path in paths if not any(_is_used(path, block) for block in blocks)] == []


def test_a_value_that_is_not_used_is_found() -> None:
    """Also one whose name stands somewhere else, or only in a comment."""
    blocks = list(_blocks())

    assert not any(_is_used(("kafka", "ca", "hostnames"), block) for block in blocks)
    assert not any(_is_used(("kafka", "load"), block) for block in blocks)


def _blocks() -> Iterator[str]:
    """Each template that has a name, and what is left of each file; without comments."""
    for path in sorted((CHART / "templates").rglob("*.*")):
        text = re.sub(r"\{\{-? */\*.*?\*/ *-?\}\}", "", path.read_text("utf-8"), flags=re.DOTALL)
        yield from re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE).split("{{- define ")


def _is_used(path: tuple[str, ...], block: str) -> bool:
    *_, key = path
    groups = {name for group in path[-2:-1] for name in (group, GIVEN_AS.get(group, group))}
    return _names(key, block) and (not groups or any(_names(group, block) for group in groups))


def _names(key: str, block: str) -> bool:
    return re.search(rf'[.]{re.escape(key)}\b|"{re.escape(key)}"', block) is not None


def _at(values: Any, group: tuple[str, ...]) -> list[str]:
    for name in group:
        values = values[name]
    return list(values)


def test_objects_come_from_our_templates() -> None:
    """`helm template` shows the source of each; none comes from elsewhere."""
    text = rendered(names()[0])

    assert len(re.findall(r"^# Source: webex-events/templates/", text, re.MULTILINE)) >= len(parse(text))
    assert len({name_of(each) for each in parse(text)}) == len(parse(text))


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_rules_and_dashboards_arrive_as_they_are() -> None:
    """Braces included, which would be a template's."""
    objects = objects_of("production")
    (rules,) = of_kind(objects, "PrometheusRule")
    data = {name: text for each in of_kind(objects, "ConfigMap") for name, text in each["data"].items()}
    dashboards = list(CHART.glob("files/dashboards/*.json"))

    assert rules["spec"] == yaml.safe_load((CHART / "files" / "rules" / "webex-events.yaml").read_text("utf-8"))
    assert len(dashboards) > 0
    for path in dashboards:
        assert data[path.name].strip() == path.read_text("utf-8").strip()


def test_the_chart_is_of_the_programs_version() -> None:
    """Whose image it starts where nobody says otherwise, and which it names to who looks for vulnerabilities."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    (image,) = yaml.safe_load(about["annotations"]["artifacthub.io/images"])

    assert about["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert image["image"] == f"{_values()['image']['repository']}:{about['appVersion']}"


def test_changes_are_of_the_kinds_that_artifact_hub_knows() -> None:
    """https://artifacthub.io/docs/topics/annotations/helm/."""
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["annotations"]
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])

    assert {change["kind"] for change in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert all(change["description"] for change in changes)
    assert all(isinstance(value, str) for value in annotations.values())
