"""Makes the tools: each in a folder beside its place, renamed when it is whole, so nobody ever sees half of one."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.tools import HERE, Pin, cache
from tests.deploy.tools.schemas import make_schemas

#: Seconds after which a step that still runs says so.
PATIENCE = 30


class CannotMake(RuntimeError):
    """A tool could not be made; the message holds what its maker said."""


def make(wanted: Iterable[Pin]) -> None:
    """Make those that are not there, one after the other, with a line for each. Raises CannotMake."""
    missing = [pin for pin in wanted if not pin.path.exists()]
    cache().mkdir(parents=True, exist_ok=True)
    for number, pin in enumerate(missing, 1):
        title = f"[{number}/{len(missing)}] {pin.name} {pin.version}"
        with _alone(pin, title):
            if not pin.path.exists():  # another may have made it while we waited
                _make_one(pin, title)


@contextmanager
def _alone(pin: Pin, title: str) -> Iterator[None]:
    """One at a time: two would build the same, at half the speed."""
    with (cache() / f"{pin.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{title}: waiting for another that makes it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_one(pin: Pin, title: str) -> None:
    _say(title)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache(), prefix="making-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        MAKERS[pin.kind](pin, made)
        made.rename(pin.folder)
    _say(f"{title}: {time.monotonic() - began:.0f} s")


def _go(pin: Pin, made: Path) -> None:
    """By its own go.mod; what was fetched is compared with Go's checksum database."""
    _run("go", "install", pin.recipe["go"], environ={"GOBIN": str(made), "GOFLAGS": "-mod=mod -buildvcs=false"})


def _wrapper(pin: Pin, made: Path) -> None:
    """By a go.mod of ours; what was fetched is compared with the go.sum beside it."""
    folder = HERE / "go" / pin.recipe["wrapper"]
    command = ("go", "build", "-C", str(folder), "-ldflags", _version_of(pin), "-o", str(made / pin.program))
    _run(*command, pin.recipe["package"], environ={"GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"})


def _version_of(pin: Pin) -> str:
    """For the linker: without debug symbols, and what the program says that it is."""
    package = pin.recipe.get("says")
    major, minor, *_ = pin.version.split(".")
    said = {"gitVersion": f"v{pin.version}", "gitMajor": major, "gitMinor": minor} if package else {}
    return " ".join(("-s -w", *(f"-X {package}.{name}={value}" for name, value in said.items())))


def _debian(pin: Pin, made: Path) -> None:
    if shutil.which("apt-get") is None:
        raise CannotMake(f"{pin.name} is taken from Debian's package {pin.recipe['debian']}, and apt-get is not here")
    fetch = ("apt-get", "download", "-qq", pin.recipe["debian"])
    try:
        _run(*fetch, folder=made)
    except CannotMake:  # no list of packages yet, or an old one
        _run("apt-get", "update", "-qq")
        _run(*fetch, folder=made)
    package = next(made.glob("*.deb"))
    _run("dpkg-deb", "--extract", package.name, "unpacked", folder=made)
    (made / "unpacked" / pin.recipe["file"]).rename(made / pin.program)
    shutil.rmtree(made / "unpacked")
    package.unlink()


def _pypi(pin: Pin, made: Path) -> None:
    raise CannotMake(f"{pin.name} is installed with locks/deploy.txt: run `make tools`")


def _make(pin: Pin, made: Path) -> None:
    make_schemas(made, _run)


MAKERS: Mapping[str, Callable[[Pin, Path], None]] = {
    "go": _go,
    "wrapper": _wrapper,
    "debian": _debian,
    "pypi": _pypi,
    "make": _make,
}


def _run(*command: str, folder: Path | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; what it printed. Raises CannotMake."""
    if shutil.which(command[0]) is None:
        raise CannotMake(f"{command[0]} is needed to make the tools and was not found")
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(environ or {})}, stdout=output, stderr=errors
        )
        code = _awaited(process)
        output.seek(0)
        errors.seek(0)
        if code:
            said = errors.read().decode(errors="replace")[-3000:]
            raise CannotMake(f"{' '.join(command)} ended with {code}:\n{said}")
        return output.read().decode()


def _awaited(process: subprocess.Popen[bytes]) -> int:
    began = time.monotonic()
    try:
        while True:
            try:
                return process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                _say(f"    … {time.monotonic() - began:.0f} s")
    finally:
        process.kill()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - people wait for it
