"""Dockerfile, compose file, and the objects that people apply by hand or by GitOps, each by the program that looks at such."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.render import CHART, NEWEST, ROOT, kubeconform, run

OBJECTS = sorted(
    path
    for folder in ("gitops", "strimzi")
    for path in (ROOT / "deploy" / folder).glob("*.yaml")
    if "\nkind:" in f"\n{path.read_text('utf-8')}"
)


def test_hadolint_has_nothing_to_say() -> None:
    """About the Dockerfile."""
    assert run("hadolint", ROOT / "Dockerfile") == ""


def test_the_compose_file_is_one() -> None:
    """By the schema of the compose specification."""
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "deploy" / "compose.yaml")


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_objects_have_the_fields_that_their_operators_know(path: Path) -> None:
    """Strimzi's, Argo CD's and Flux's."""
    text = path.read_text("utf-8")
    verdict = kubeconform(text, NEWEST)

    assert verdict["resources"] == []
    assert verdict["summary"]["valid"] == len([each for each in yaml.safe_load_all(text) if each])


def test_there_are_objects() -> None:
    """Of both folders."""
    assert {path.parent.name for path in OBJECTS} == {"gitops", "strimzi"}


@pytest.mark.parametrize("path", sorted(CHART.glob("files/dashboards/*.json")), ids=lambda path: path.name)
def test_a_dashboard_fits_into_a_config_map(path: Path) -> None:
    """Kubernetes takes a mebibyte in all."""
    assert path.stat().st_size < 700_000
