"""Debian's packages that the check needs: installed where that is possible, else named."""

from __future__ import annotations

import os
import shutil
import subprocess

#: Program → package. netavark and aardvark-dns are not in PATH; they come with podman's.
_PROGRAMS = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "conmon": "conmon",
    "catatonit": "catatonit",
    "newuidmap": "uidmap",
    "iptables": "iptables",
}
_WITH_THEM = ("netavark", "aardvark-dns", "debian-archive-keyring")


class PackagesMissing(RuntimeError):
    """They are not here and cannot be installed; the message says which."""


def ensure() -> None:
    """Return when all of them are there. Raises PackagesMissing."""
    if os.geteuid() != 0:
        raise PackagesMissing(
            "image-check makes a Debian and mounts file systems: run it as root (a container of CI will do)"
        )
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise PackagesMissing(f"image-check needs {', '.join(missing)} (Debian's names)")
    _install([*missing, *_WITH_THEM])


def _install(packages: list[str]) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update", "-qq"), ("install", "-qq", "--no-install-recommends", *packages)):
        done = subprocess.run(("apt-get", *command), env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackagesMissing(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}")
