"""What helm makes of the chart: the objects of each ``ci/*-values.yaml``, for each version of Kubernetes.

And how a tool is asked for its judgement of them.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "webex-events"
RELEASE, NAMESPACE = "hooks", "webex"

#: The oldest that the chart takes, one between, and the one of ``make cluster-check``.
KUBERNETES = ("1.30", "1.34", "1.36")
NEWEST = KUBERNETES[-1]

Object = dict[str, Any]


class CannotRender(RuntimeError):
    """Helm refused; the message is its own."""


def values_files() -> list[Path]:
    """Every set of values that is checked."""
    return sorted((CHART / "ci").glob("*-values.yaml"))


def names() -> list[str]:
    """``production`` for ``ci/production-values.yaml``."""
    return [path.name.removesuffix("-values.yaml") for path in values_files()]


def values_of(name: str) -> Path:
    """The other way round."""
    return CHART / "ci" / f"{name}-values.yaml"


@functools.cache
def extensions() -> tuple[str, ...]:
    """``GROUP/VERSION/KIND`` of everything beyond Kubernetes itself that a cluster of ours would know."""
    return tuple((tool("schemas") / "extensions.txt").read_text("utf-8").split())


@dataclass(frozen=True)
class Rendering:
    """One call of ``helm template``; ``sets`` are ``--set-json`` arguments, ``more`` any others."""

    values: Path | None = None
    kubernetes: str = NEWEST
    helm: str = "helm4"
    chart: Path = CHART
    release: str = RELEASE
    sets: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def text(self) -> str:
        """What helm prints. Raises CannotRender."""
        known = [argument for each in extensions() for argument in ("--api-versions", each)]
        given = ["--values", str(self.values)] if self.values else []
        sets = [argument for each in self.sets for argument in ("--set-json", each)]
        command = ["template", self.release, str(self.chart), "--namespace", NAMESPACE]
        version = ("--kube-version", f"{self.kubernetes}.0")
        return helm(self.helm, *command, *version, *known, *given, *sets, *self.more)

    def objects(self) -> list[Object]:
        """The same, parsed."""
        return parse(self.text())


def helm(name: str, *arguments: str) -> str:
    """Run a helm; what it printed. Raises CannotRender."""
    done = subprocess.run((tool(name), *arguments), capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        raise CannotRender(done.stderr)
    return done.stdout


@functools.cache
def rendered(name: str, kubernetes: str = NEWEST, helm: str = "helm4") -> str:
    """One of the ``ci/*-values.yaml``, as text."""
    return Rendering(values=values_of(name), kubernetes=kubernetes, helm=helm).text()


def objects_of(name: str, kubernetes: str = NEWEST, helm: str = "helm4") -> list[Object]:
    """The same, parsed; whoever gets it may change it."""
    return parse(rendered(name, kubernetes, helm))


def parse(text: str) -> list[Object]:
    """The documents that are not empty."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


# --- what a tool says of them -----------------------------------------------------------------------------------------


def run(command: str, *arguments: object, text: str = "", environ: Mapping[str, str] | None = None) -> str:
    """What a tool printed. Raises AssertionError where it ended with anything but 0."""
    done = tried(command, *arguments, text=text, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tried(
    command: str, *arguments: object, text: str = "", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A tool run to its end, whatever that is; ``text`` is what it reads."""
    return subprocess.run(
        (tool(command), *map(str, arguments)),
        cwd=ROOT,
        input=text,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def kubeconform(text: str, kubernetes: str) -> dict[str, Any]:
    """Its verdict: `resources` that are not right, and `summary`."""
    schemas = tool("schemas")
    name = "{{.Group}}-{{.ResourceAPIVersion}}-{{.ResourceKind}}.json"
    places = [
        word for folder in (kubernetes, "extensions") for word in ("-schema-location", f"{schemas / folder}/{name}")
    ]
    done = tried("kubeconform", "-strict", "-summary", "-output", "json", *places, text=text)
    return dict(json.loads(done.stdout))


# --- what is in the objects -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pods:
    """Pods of one kind: what they are made by, and their template."""

    owner: Object
    template: Object

    @property
    def name(self) -> str:
        """``StatefulSet/hooks-webex-events-receiver``."""
        return name_of(self.owner)

    @property
    def spec(self) -> Object:
        """Of the pod."""
        return dict(self.template["spec"])

    @property
    def labels(self) -> Mapping[str, str]:
        """Of the pod."""
        return dict(self.template["metadata"].get("labels", {}))

    @property
    def containers(self) -> list[Object]:
        """Those that are started first, too."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def serves(self) -> bool:
        """Whether they are meant to run for ever."""
        return self.owner["kind"] in {"Deployment", "StatefulSet"}

    @property
    def from_hook(self) -> bool:
        """Whether helm makes them by itself, and takes them away again."""
        return "helm.sh/hook" in annotations_of(self.owner)


def pods(objects: Sequence[Object]) -> Iterator[Pods]:
    """All that would ever run."""
    for each in objects:
        if each["kind"] == "Pod":
            yield Pods(each, each)
        elif each["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield Pods(each, each["spec"]["template"])
        elif each["kind"] == "CronJob":
            yield Pods(each, each["spec"]["jobTemplate"]["spec"]["template"])


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Those of the kinds."""
    return [each for each in objects if each["kind"] in kinds]


def name_of(each: Object) -> str:
    """``Kind/name``."""
    return f"{each['kind']}/{each['metadata']['name']}"


def annotations_of(each: Object) -> Mapping[str, str]:
    """Where there are none, none."""
    return each["metadata"].get("annotations") or {}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes does; an empty one selects everything."""
    said = selector.get("matchExpressions", ())
    return selector.get("matchLabels", {}).items() <= labels.items() and all(_is_so(each, labels) for each in said)


def _is_so(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found = labels.get(expression["key"])
    return {
        "In": found in expression.get("values", ()),
        "NotIn": found not in expression.get("values", ()),
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }[expression["operator"]]
