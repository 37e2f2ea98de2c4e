"""The images of the check: a base that stands for the official one, the product on it, a Kafka, and a Prometheus.

A base is made once for each recipe and kept in the cache of the tools; the product is built anew each time, by layers that
buildah keeps.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.image.engine import Engine
from tests.deploy.tools import cache, tool
from tests.kafka.harness import cache_folder, install

ROOT = Path(__file__).parents[3]
PRODUCT = "localhost/webex-event-processor:check"

#: Like the official image: no byte code of the standard library, no manuals, `python` in /usr/local/bin.
_RECIPE = (
    "--variant=minbase",
    "--include=python3,python3-venv,ca-certificates",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    '--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"',
    '--customize-hook=find "$1/usr/lib" -path "*/python3*" -name "*.pyc" -delete',
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What starts the broker in the official image: KafkaDockerWrapper (in Kafka's own jar) reads KAFKA_… and formats.
_RUN_KAFKA = """\
#!/bin/bash
set -e
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
export CLASSPATH='/opt/kafka/libs/*' PATH=/opt/java/bin:$PATH
said=$(java kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \\
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) ||
    [[ $said == *"already formatted"* ]] || { echo "$said"; exit 1; }
exec java $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 kafka.Kafka /opt/kafka/config/server.properties
"""
#: Stands for kafka-broker-api-versions.sh, whose jar the harness has not: whether the broker answers ApiVersions.
_API_VERSIONS = """\
#!/usr/bin/python3
import socket, struct, sys
host, _, port = sys.argv[2].rpartition(":")
with socket.create_connection((host, int(port)), timeout=5) as broker:
    broker.sendall(struct.pack(">ihhih5s", 15, 18, 0, 1, 5, b"check"))
    sys.exit(len(broker.recv(10, socket.MSG_WAITALL)) != 10)
"""


def prepare(engine: Engine) -> None:
    """All four, with a line for each step. Raises EngineError, CalledProcessError or KafkaUnavailable."""
    base = base_name()
    with _step(f"base {base}"):
        _base(engine, base)
    with _step(f"product {PRODUCT}"):
        _product(engine)
    with _step(f"broker {compose_name('KAFKA')}"):
        _kafka(engine, base)
    with _step(f"monitoring {compose_name('PROMETHEUS')}"):
        _prometheus(engine, base)


def base_name() -> str:
    """The Dockerfile's own default for PYTHON_IMAGE."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert found, "the Dockerfile has no default for PYTHON_IMAGE"
    return found[1]


def compose_name(which: str) -> str:
    """The compose file's own default for KAFKA_IMAGE and its like."""
    found = re.search(rf"\$\{{{which}_IMAGE:-([^}}]+)\}}", (ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    assert found, f"the compose file has no default for {which}_IMAGE"
    return found[1]


def _base(engine: Engine, name: str) -> None:
    """``…:3.13-slim-trixie`` → Debian's trixie, and its Python must be 3.13."""
    if _made(engine, name, *_RECIPE):
        return
    version, _, suite = name.rpartition(":")[2].partition("-slim-")
    container = engine.buildah("from", "scratch")
    try:
        engine.buildah("add", "--quiet", container, str(_root_of(suite)), "/")
        engine.buildah("config", "--env", f"PATH={_PATH}", "--cmd", "python", *_mark(*_RECIPE), container)
        found = engine.buildah("run", "--isolation=chroot", container, "--", "python", "--version")
        assert found.startswith(f"Python {version}."), f"{suite} has {found}, and the Dockerfile wants {version}"
        engine.buildah("commit", "--quiet", container, name)
    finally:
        engine.buildah("rm", container)


def _mark(*recipe: str) -> tuple[str, ...]:
    """What tells an image of this recipe from one of an older."""
    return ("--label", f"recipe={_digest(*recipe)}")


def _made(engine: Engine, name: str, *recipe: str) -> bool:
    return engine.has_image(name) and (engine.image(name)["Labels"] or {}).get("recipe") == _digest(*recipe)


def _digest(*recipe: str) -> str:
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:8]


def _root_of(suite: str) -> Path:
    archive = cache() / f"debian-{suite}-{_digest(*_RECIPE)}.tar"
    if not archive.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix="making-") as scratch:
            made = Path(scratch) / "root.tar"
            subprocess.run(("mmdebstrap", "--quiet", *_RECIPE, suite, str(made)), check=True)
            made.rename(archive)
    return archive


def _product(engine: Engine) -> None:
    build(engine, PRODUCT, ROOT, "--layers")
    engine.podman("image", "prune", "--force", "--filter", "until=24h")  # layers that builds of other days have left


def build(engine: Engine, name: str, sources: Path, *how: str) -> None:
    """As the Dockerfile's first line says, but that nothing is pulled and that RUN sees this machine's authorities."""
    index = os.environ.get("PIP_INDEX_URL")
    mirror = ("--build-arg", f"PIP_INDEX_URL={index}") if index else ()
    authorities = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro")
    here = ("--isolation=chroot", "--pull-never", "--format=docker", *authorities, *mirror)
    engine.buildah("bud", *here, *how, "--tag", name, str(sources))


def _kafka(engine: Engine, base: str) -> None:
    """The jars of the harness and this machine's Java under the official image's name, with its way to read KAFKA_…."""
    name, recipe = compose_name("KAFKA"), (_RUN_KAFKA, _API_VERSIONS)
    if not _made(engine, name, *recipe):
        with tempfile.TemporaryDirectory() as scratch:
            _kafka_files(Path(scratch))
            how = ("--cmd=/etc/kafka/docker/run", *_mark(*recipe))
            _upon(engine, base, name, Path(scratch), "1000", *how)


def _prometheus(engine: Engine, base: str) -> None:
    """Debian's, an older one, which takes the same configuration, rules and flags."""
    name, recipe = compose_name("PROMETHEUS"), (str(tool("prometheus").parent.name), "nobody")
    if not _made(engine, name, *recipe):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            for folder in ("usr/bin", "prometheus", "etc/prometheus"):
                (root / folder).mkdir(parents=True)
            shutil.copy(tool("prometheus"), root / "usr/bin/prometheus")
            how = ('--entrypoint=["/bin/prometheus"]', "--workingdir=/prometheus", *_mark(*recipe))
            _upon(engine, base, name, root, "65534", *how)


def _upon(engine: Engine, base: str, name: str, root: Path, user: str, *how: str) -> None:
    """An image of the files below ``root`` and a base; they belong to the user that it runs as."""
    container = engine.buildah("from", "--pull-never", base)
    try:
        engine.buildah("add", "--quiet", f"--chown={user}:{user}", container, str(root), "/")
        engine.buildah("config", f"--user={user}", *how, container)
        engine.buildah("commit", "--quiet", container, name)
    finally:
        engine.buildah("rm", container)


def _kafka_files(root: Path) -> None:
    shutil.copytree(_java_home(), root / "opt/java", ignore_dangling_symlinks=True)
    shutil.copytree(install(cache_folder()) / "lib", root / "opt/kafka/libs")
    for folder in ("opt/kafka/config", "opt/kafka/bin", "etc/kafka/docker", "mnt/shared/config", "var/lib/kafka/data"):
        (root / folder).mkdir(parents=True)
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (root / "etc/kafka/docker" / name).write_text("{}\n" if name.endswith("yaml") else "")
    programs = {"etc/kafka/docker/run": _RUN_KAFKA, "opt/kafka/bin/kafka-broker-api-versions.sh": _API_VERSIONS}
    for place, text in programs.items():
        (root / place).write_text(text)
        (root / place).chmod(0o755)


def _java_home() -> Path:
    said = subprocess.run(
        ("java", "-XshowSettings:properties", "-version"), capture_output=True, text=True, check=True
    ).stderr
    found = re.search(r"java\.home = (.+)", said)
    assert found, "java does not say where it is"
    return Path(found[1])


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{title} …", file=sys.stderr, flush=True)  # noqa: T201 - people wait for it
    yield
    print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)  # noqa: T201 - likewise
