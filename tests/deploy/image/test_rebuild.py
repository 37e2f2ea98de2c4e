"""The image again, at another time and from another folder: the same files, and with a date that is said, the same dates."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT, ROOT, build

AGAIN = "localhost/webex-event-processor:again"
#: What SOURCE_DATE_EPOCH is to Docker, ``--timestamp`` is to buildah.
EPOCH = 1_700_000_000


@dataclass(frozen=True)
class Entry:
    """All that a layer says of a path, but for its date."""

    kind: str
    mode: str
    owner: str
    #: Of a file its digest, of a link where it leads.
    content: str


def tree(root: Path) -> dict[str, Entry]:
    """Everything below a folder, by its path."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            found[str(path.relative_to(root))] = _entry(path)
    return found


def _entry(path: Path) -> Entry:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        content = str(path.readlink())
    else:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(about.st_mode) else ""
    mode = stat.filemode(about.st_mode)
    return Entry(mode[0], mode[1:], f"{about.st_uid}:{about.st_gid}", content)


def differences(first: Mapping[str, Entry], second: Mapping[str, Entry]) -> list[str]:
    """A sentence for each path that is not the same in both."""
    there = {path: (first.get(path), second.get(path)) for path in sorted({*first, *second})}
    return [f"{path}: {one}, then {other}" for path, (one, other) in there.items() if one != other]


@pytest.mark.timeout(600)
def test_a_rebuild_gives_the_same_files(engine: Engine, base: str, tmp_path: Path, figures: list[str]) -> None:
    """Built anew down to the base, from a copy whose files have other dates and rights."""
    began = time.monotonic()
    build(engine, AGAIN, _copied(tmp_path / "elsewhere"), "--no-cache", f"--timestamp={EPOCH}")
    seconds = time.monotonic() - began
    try:
        with _mounted(engine, base) as below, _mounted(engine, PRODUCT) as first, _mounted(engine, AGAIN) as second:
            theirs, built, rebuilt = tree(below), tree(first), tree(second)
            ours = {path for path in rebuilt if rebuilt[path] != theirs.get(path)}
            files = [second / path for path in sorted(ours) if rebuilt[path].kind == "-"]
            dates = {file.stat().st_mtime for file in files}
            size = sum(file.stat().st_size for file in files) / 1e6
    finally:
        engine.podman("image", "rm", AGAIN)
    assert differences(built, rebuilt) == []
    assert len(files) > 1000
    assert dates == {EPOCH}
    figures.append(f"rebuild: {len(files)} files above the base, {size:.0f} MB, all the same ({seconds:.0f} s)")


def _copied(folder: Path) -> Path:
    """What the Dockerfile copies, as another checkout would have it."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    names = [name for words in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in words.split()]
    for name in ("Dockerfile", ".dockerignore", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (EPOCH / 2, EPOCH / 2))
    return folder


@contextmanager
def _mounted(engine: Engine, name: str) -> Iterator[Path]:
    yield Path(engine.podman("image", "mount", name))
    engine.podman("image", "unmount", name)


def test_what_is_not_the_same_is_found(tmp_path: Path) -> None:
    """Content, rights, where a link leads, and what is in one only."""
    for name in ("first", "second"):
        (tmp_path / name / "folder").mkdir(parents=True)
        for file in ("same", "content", "mode"):
            (tmp_path / name / file).write_text("as it is")
        (tmp_path / name / "link").symlink_to(name)
    (tmp_path / "second" / "content").write_text("as it was")
    (tmp_path / "second" / "mode").chmod(0o600)
    (tmp_path / "first" / "folder" / "left").touch()

    found = differences(tree(tmp_path / "first"), tree(tmp_path / "second"))

    assert [sentence.partition(":")[0] for sentence in found] == ["content", "folder/left", "link", "mode"]
