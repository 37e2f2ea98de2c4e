"""The operator's policy file, re-read while running. A bad new one is refused and the old one stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from service.core.errors import PolicyError, Problem, SettingsError
from service.core.policy import HOLD_EVERYTHING, Policy, parse

#: Seconds between two looks at the file: `paused: true` has to stop every write within 10 s.
INTERVAL = 2.0

#: A policy is small; what is larger is another file.
MAX_BYTES = 1 << 20


class LivePolicy:
    """The policy that is in force: call it for the present one. It changes only while :meth:`watch` runs."""

    def __init__(self, file: Path | None) -> None:
        """Raises PolicyError, or SettingsError where the file cannot be read: nothing starts on a bad policy."""
        self._file = file
        self._text = _read(file) if file else ""
        self._policy = parse(self._text) if file else HOLD_EVERYTHING
        self._complaint = ""
        self._log = structlog.get_logger()

    def __call__(self) -> Policy:
        """The policy in force now."""
        return self._policy

    async def watch(self, *, interval: float = INTERVAL) -> None:
        """Re-read the file every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Re-read the file. Where it is no good, the policy stays as it is, and the complaint is logged once."""
        if self._file is None:
            return
        try:
            text = await asyncio.to_thread(_read, self._file)
            if text == self._text:
                self._complaint = ""
                return
            policy = await asyncio.to_thread(parse, text)
        except (PolicyError, SettingsError) as error:
            self._complain(str(error))
            return
        self._text, self._policy, self._complaint = text, policy, ""
        self._log.info("policy.changed", policy=policy.version, paused=policy.paused)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._log.error("policy.refused", in_force=self._policy.version, problems=complaint.splitlines())
        self._complaint = complaint


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode("utf-8-sig")
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} is larger than 1 MiB"
    except OSError as error:
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        said = f"WEBEX_EVENTS_POLICY__FILE: {file} is not UTF-8"
    raise SettingsError((Problem(said),))
