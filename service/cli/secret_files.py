"""Secrets that stand in files: read once, or watched while running."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG

import structlog

from service.core.errors import Problem, SettingsError

#: Seconds between two looks at the folder. A secret that was removed is refused at the latest this long afterwards.
INTERVAL = 2.0
_LONGEST = 64 * 1024
_MOST = 1_000


def read_secret(file: Path) -> bytes:
    """What the file holds, without one newline at its end. Raises SettingsError where it cannot be read or is empty."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LONGEST + 1)
    except OSError as error:
        raise _refused(f"{file} cannot be read ({type(error).__name__})") from None
    secret = content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content
    if not secret:
        raise _refused(f"{file} is empty")
    if len(content) > _LONGEST:
        raise _refused(f"{file} is longer than {_LONGEST} bytes")
    return secret


def read_secrets(folder: Path) -> tuple[bytes, ...]:
    """One secret for each file of ``folder``, in the order of their names. Raises SettingsError, every problem at once.

    Entries that begin with a dot are skipped: a mounted Kubernetes secret has its machinery in them (``..data``).
    """
    try:
        files = sorted(
            each for each in folder.iterdir() if not each.name.startswith(".") and S_ISREG(each.stat().st_mode)
        )
    except OSError as error:
        raise _refused(f"{folder} cannot be read ({type(error).__name__})") from None
    if not 0 < len(files) <= _MOST:
        raise _refused(f"{folder} has {len(files)} files; 1 to {_MOST} secrets are expected")
    secrets: list[bytes] = []
    problems: list[Problem] = []
    for file in files:
        try:
            secrets.append(read_secret(file))
        except SettingsError as error:
            problems.extend(error.problems)
    if problems:
        raise SettingsError(tuple(problems))
    return tuple(dict.fromkeys(secrets))


class LiveSecrets:
    """The live secrets: call it for the present ones. They change only while :meth:`watch` runs."""

    def __init__(self, *, fixed: Sequence[bytes] = (), folder: Path | None = None) -> None:
        """``fixed`` ones come first and stay. Raises SettingsError where the folder is no good, or there is no secret."""
        self._fixed = tuple(fixed)
        self._folder = folder
        self._secrets = self._read()
        self._complaint = ""
        self._log = structlog.get_logger()
        if not self._secrets or not all(self._secrets):
            raise _refused("there is no secret to verify webhooks with")

    def __call__(self) -> Sequence[bytes]:
        """The secrets that are live now; never empty."""
        return self._secrets

    async def watch(self, *, interval: float = INTERVAL) -> None:
        """Re-read the folder every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Re-read the folder, beside the event loop. Where that fails, the secrets stay as they are."""
        try:
            secrets = await asyncio.to_thread(self._read)
        except SettingsError as error:
            self._complain(str(error), files=len(error.problems))
            return
        if secrets != self._secrets:
            self._log.info("secrets.changed", live=len(secrets), before=len(self._secrets))
        self._secrets, self._complaint = secrets, ""

    def _complain(self, complaint: str, *, files: int) -> None:
        if complaint != self._complaint:  # once, and not every two seconds
            self._log.error("secrets.kept", reason=complaint, problems=files, live=len(self._secrets))
        self._complaint = complaint

    def _read(self) -> tuple[bytes, ...]:
        found = () if self._folder is None else read_secrets(self._folder)
        return tuple(dict.fromkeys((*self._fixed, *found)))


def _refused(sentence: str) -> SettingsError:
    return SettingsError((Problem(sentence),))
