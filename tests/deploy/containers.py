"""A container of the rendered chart, on this machine: its environment, its command, and its files in a folder of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.render import Object, Pods, of_kind

#: Secrets and ConfigMaps that are there before the chart is: name → key → content.
Given = Mapping[str, Mapping[str, str]]

#: The ones that the program's settings name; everything else that is mounted is the operator's own.
OUR_FOLDERS = ("/etc/webex-events", "/var/lib/webex-events")


@dataclass(frozen=True)
class Extracted:
    """What the program finds when it starts. Paths in files and variables lead into ``root``."""

    name: str
    root: Path
    environ: Mapping[str, str]
    arguments: tuple[str, ...]
    #: Another program than the image's own, where the pod says so.
    command: tuple[str, ...]
    #: Mount paths that can be written.
    writable: tuple[str, ...]
    ports: Mapping[str, int]

    @property
    def settings_file(self) -> Path:
        """What WEBEX_EVENTS_CONFIG names."""
        return Path(self.environ["WEBEX_EVENTS_CONFIG"])

    @property
    def role(self) -> str:
        """The container's name, which is the role's."""
        return self.name.rpartition("/")[2]


def extract(pods: Pods, objects: Sequence[Object], given: Given, folder: Path) -> Extracted:
    """The product's container of a pod. Raises KeyError where it mounts what is neither rendered nor given."""
    container = pods.spec["containers"][0]
    root = folder / f"{pods.owner['kind']}-{pods.owner['metadata']['name']}"
    volumes = {volume["name"]: volume for volume in pods.spec.get("volumes", ())}
    for mount in container["volumeMounts"]:
        place = _inside(root, mount["mountPath"])
        place.mkdir(parents=True, exist_ok=True)
        for name, content in _files(volumes.get(mount["name"], {}), objects, given):
            (place / name).write_text(_moved(content, root), "utf-8")
    return Extracted(
        name=f"{pods.name}/{container['name']}",
        root=root,
        environ={each["name"]: _moved(_value(each, pods), root) for each in container.get("env", ())},
        arguments=tuple(_moved(each, root) for each in container.get("args", ())),
        command=tuple(_moved(each, root) for each in container.get("command", ())),
        writable=tuple(mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")),
        ports={port["name"]: port["containerPort"] for port in container.get("ports", ())},
    )


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _moved(text: str, root: Path) -> str:
    """The same with our folders where they are here."""
    return re.sub(rf"(?<![\w/])({'|'.join(OUR_FOLDERS)})(?=[/\s\"',]|$)", lambda found: f"{root}{found[0]}", text)


def _value(variable: Mapping[str, Any], pods: Pods) -> str:
    """As the kubelet has it, of the first pod."""
    if "valueFrom" not in variable:
        return str(variable.get("value", ""))
    field = variable["valueFrom"]["fieldRef"]["fieldPath"]
    return {"metadata.name": f"{pods.owner['metadata']['name']}-0"}[field]


def _files(volume: Mapping[str, Any], objects: Sequence[Object], given: Given) -> Iterator[tuple[str, str]]:
    """Name and content of everything in a volume; a disk is empty."""
    for source in (volume, *volume.get("projected", {}).get("sources", ())):
        if "configMap" in source:
            yield from _picked(source["configMap"], _config_map(objects, source["configMap"]["name"], given))
        if "secret" in source:
            name = source["secret"].get("secretName") or source["secret"]["name"]
            yield from _picked(source["secret"], given[name])


def _config_map(objects: Sequence[Object], name: str, given: Given) -> Mapping[str, str]:
    rendered = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    return rendered[name] if name in rendered else given[name]


def _picked(source: Mapping[str, Any], content: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    items = source.get("items")
    if items is None:
        yield from content.items()
    for item in items or ():
        yield item["path"], content[item["key"]]
