"""What the operating system says of a process, and where this one runs. Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path

#: Beside Python itself, what the figures depend on.
_LIBRARIES = ("uvicorn", "uvloop", "httptools", "starlette", "aiokafka", "msgspec", "apsw", "structlog")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, with all its threads, those that have ended too, in nanoseconds' resolution.

    The clock of another process as clock_getcpuclockid(3) would name it; /proc/<pid>/stat counts in hundredths.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_mib(pid: int) -> float:
    """The resident set now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def facts() -> dict[str, object]:
    """The machine and the builds, without names of places or people."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "build": _build(sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "service")),
    }


def _build(arguments: str) -> str:
    """Whether the interpreter was built with profile-guided optimisation, as far as it says so itself: Debian's does not."""
    how = (
        "with profile-guided optimisation" if "--enable-optimizations" in arguments else "not built with PGO, or silent"
    )
    return f"{how}{', LTO' if '--with-lto' in arguments else ''}, {platform.python_compiler()}"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def pin(core: int) -> None:
    """This process, and what it starts from now on, runs on this core; anywhere where there is no such core."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})


def unpin() -> None:
    """This process, and what it starts from now on, runs anywhere."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
