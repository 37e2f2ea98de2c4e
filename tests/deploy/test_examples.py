"""The examples of deploy/: the chart takes their values, and they fit one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.render import CHART, ROOT, Object, parse, run

DEPLOY = ROOT / "deploy"


def _documents(name: str) -> dict[str, Any]:
    """Those of a file, by their kinds."""
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))
    return {document.get("kind", ""): document for document in documents}


def _argo() -> Any:
    return _documents("gitops/argocd-application.yaml")["Application"]["spec"]["source"]["helm"]["valuesObject"]


def _flux() -> Any:
    return _documents("gitops/flux-helmrelease.yaml")["HelmRelease"]["spec"]["values"]


def _strimzi() -> Any:
    return _documents("strimzi/values.yaml")[""]


@pytest.mark.parametrize("values", [_argo, _flux, _strimzi])
def test_the_chart_takes_the_values(values: Any) -> None:
    _rendered(values())


def test_from_git_nothing_is_a_hook() -> None:
    hooks = [each for each in _rendered(_argo()) if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert hooks == []


def _rendered(values: Any) -> list[Object]:
    return parse(run("helm4", "template", "example", CHART, "--values", "-", text=yaml.safe_dump(values)))


def test_the_charts_values_name_the_cluster_beside_them() -> None:
    values, cluster = _strimzi(), _documents("strimzi/kafka-production.yaml")["Kafka"]
    name = cluster["metadata"]["name"]
    (listener,) = cluster["spec"]["kafka"]["listeners"]
    assert values["kafka"]["bootstrapServers"] == [f"{name}-kafka-bootstrap:{listener['port']}"]
    assert values["kafka"]["ca"]["existingSecret"] == f"{name}-cluster-ca-cert"
    assert values["topics"]["strimzi"]["cluster"] == name


def test_what_compose_mounts_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    mounts = [mount.split(":") for service in services.values() for mount in service.get("volumes", ())]
    missing = [source for source, *_ in mounts if source.startswith(".") and not (DEPLOY / source).exists()]
    assert missing == []
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    (folder,) = [source for source, target, *_ in mounts if target == str(Path(home).parent)]
    assert (DEPLOY / folder / Path(home).name).is_file()
