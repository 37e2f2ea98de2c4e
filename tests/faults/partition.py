"""Packets that do not arrive: iptables rules for single ports on loopback, so that nobody else's connections are meant.

    with Partitions() as partitions:
        partitions.drop([("127.0.0.11", 20000)])             # nothing gets through, in either direction
        partitions.drop([("127.0.0.11", 20000)], share=0.3)  # 30 % of the packets get lost
        partitions.heal()

The rules are removed with the block. Where the process was killed, the next :class:`Partitions` of anybody removes what it
left: every rule bears the process's number. Needs root and iptables; :func:`permitted` says whether that is so here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

Address = tuple[str, int]

MARK = "webex-events-rig-"


class NotPermitted(Exception):
    """There is no iptables, or it must not be used here."""


def permitted() -> bool:
    """Whether rules can be made here."""
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        return False
    return subprocess.run(("iptables", "-w", "5", "-S", "INPUT"), capture_output=True, check=False).returncode == 0


class Partitions:
    """The rules of one test."""

    def __init__(self) -> None:
        self._mark = f"{MARK}{os.getpid()}"

    def __enter__(self) -> Partitions:
        if not permitted():
            raise NotPermitted("no iptables, or no right to use it")
        remove_leftovers()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()

    def drop(self, addresses: Iterable[Address], *, share: float = 1.0) -> None:
        """From now on packets to and from these listeners get lost, that share of them by chance."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", str(share)) if share < 1 else ()
        for address, port in addresses:
            for end, side in (("-d", "--dport"), ("-s", "--sport")):
                which = ("-p", "tcp", end, address, side, str(port), *chance)
                _iptables("-I", "INPUT", *which, "-m", "comment", "--comment", self._mark, "-j", "DROP")

    def heal(self) -> None:
        """Everything gets through again."""
        _remove(lambda owner: owner == os.getpid())


def remove_leftovers() -> None:
    """Remove the rules of processes that are gone."""
    _remove(lambda owner: not Path(f"/proc/{owner}").exists())


def rules() -> list[str]:
    """All of ours that there are, as ``iptables -S`` prints them."""
    return [line for line in _iptables("-S", "INPUT").splitlines() if MARK in line]


def _remove(whose: Callable[[int], bool]) -> None:
    for rule in rules():
        owner = re.search(rf"{MARK}(\d+)", rule)
        if owner and whose(int(owner[1])):
            _iptables("-D", *shlex.split(rule)[1:])


def _iptables(*arguments: str) -> str:
    done = subprocess.run(("iptables", "-w", "5", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPermitted(f"iptables: {done.stderr.strip()[:200]}")
    return done.stdout
