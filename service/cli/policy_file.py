"""The operator's policy file and its lists, re-read while running. A bad new version is refused and the old one stays."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from service.core.errors import PolicyError, Problem, SettingsError
from service.core.policy import HOLD_EVERYTHING, LARGEST_LIST, Policy, files_of, parse

#: Seconds between two looks at the file. A new version is taken when two looks in a row show it: `paused: true` has to stop
#: every write within 10 s, and half a list, saved by a program that is not done yet, must not approve anybody.
INTERVAL = 2.0

#: A policy is small; what is larger is another file.
MAX_BYTES = 1 << 20

#: The policy's text, and those of its lists' files by their names.
Texts = tuple[str, Mapping[str, str]]


class LivePolicy:
    """The policy that is in force: call it for the present one. It changes only while :meth:`watch` runs."""

    def __init__(self, file: Path | None) -> None:
        """Raises PolicyError, or SettingsError where the file cannot be read: nothing starts on a bad policy."""
        self._file = file
        self._texts: Texts = _read(file) if file else ("", {})
        self._policy = parse(*self._texts) if file else HOLD_EVERYTHING
        self._last = self._texts
        self._refused: Texts | None = None
        self._complaint = ""
        self._taken = time.time()
        self._log = structlog.get_logger()

    @property
    def refused(self) -> bool:
        """What the files hold now is no good, and the policy before it is in force."""
        return bool(self._complaint)

    @property
    def taken(self) -> float:
        """When the policy in force was read, in seconds since 1970."""
        return self._taken

    def __call__(self) -> Policy:
        """The policy in force now."""
        return self._policy

    async def watch(self, *, interval: float = INTERVAL) -> None:
        """Re-read the files every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Re-read the files, and take what the last look showed already.

        Where it is no good, the policy stays as it is, and the complaint is logged once.
        """
        if self._file is None:
            return
        try:
            texts = await asyncio.to_thread(_read, self._file)
            settled, self._last = texts == self._last, texts
            if texts == self._texts:
                self._refused, self._complaint = None, ""
            elif settled and texts != self._refused:
                self._refused = texts
                self._take(texts, await asyncio.to_thread(parse, *texts))
        except (PolicyError, SettingsError) as error:
            self._complain(str(error))

    def _take(self, texts: Texts, policy: Policy) -> None:
        self._texts, self._policy, self._refused, self._complaint = texts, policy, None, ""
        self._taken = time.time()
        self._log.info("policy.changed", policy=policy.version, paused=policy.paused, shadow=policy.shadow)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._log.error("policy.refused", in_force=self._policy.version, problems=complaint.splitlines())
        self._complaint = complaint


def read_policy(file: Path) -> Policy:
    """The policy in ``file``, with its lists. Raises PolicyError, or SettingsError where it cannot be read."""
    return parse(*_read(file))


def read_lists(text: str, folder: Path) -> dict[str, str]:
    """The texts of the files that the lists of a policy are in, by their names; one that cannot be read is left out."""
    read = ((name, _list_text(folder / name)) for name in files_of(text))
    return {name: content for name, content in read if content is not None}


def _read(file: Path) -> Texts:
    text = _policy_text(file)
    return text, read_lists(text, file.parent)


def _beginning(file: Path, most: int) -> bytes:
    """At most so many bytes of a regular file: a pipe, say, would keep us waiting for ever. Raises OSError."""
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123 - by its number
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "No regular file")
        return stream.read(most)


def _list_text(file: Path) -> str | None:
    try:
        content = _beginning(file, LARGEST_LIST + 1)
        return content.decode("utf-8-sig") if len(content) <= LARGEST_LIST else None
    except (OSError, UnicodeDecodeError):
        return None


def _policy_text(file: Path) -> str:
    try:
        content = _beginning(file, MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode("utf-8-sig")
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} is larger than 1 MiB"
    except OSError as error:
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} is not UTF-8"
    raise SettingsError((Problem(said),))
