"""Secrets that stand in files: read once, or watched while running."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISREG

import structlog

from service.core.errors import Problem, SettingsError
from service.core.signature import Secret, owner_of

#: Seconds between two looks at the folder. A secret that was removed is refused at the latest this long afterwards.
INTERVAL = 2.0
#: Seconds after which a folder that has changed is looked at once more: somebody may be at work in it, file by file.
SETTLING = 0.2
_LONGEST = 64 * 1024
_MOST = 1_000
#: Looks at a folder in which somebody is at work, before the next interval.
_LOOKS = 5


def read_secret(file: Path) -> bytes:
    """What the file holds, without one newline at its end. Raises SettingsError where it cannot be read or is empty."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LONGEST + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    secret = content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content
    if not secret:
        raise _refused(f"{file} is empty")
    if len(content) > _LONGEST:
        raise _refused(f"{file} is longer than {_LONGEST} bytes")
    return secret


def read_secrets(folder: Path) -> tuple[Secret, ...]:
    """The secrets in the files of ``folder``, in the order of their names. Raises SettingsError, every problem at once.

    Entries that begin with a dot are skipped: a mounted Kubernetes secret has its machinery in them (``..data``).
    """
    secrets: list[Secret] = []
    problems: list[Problem] = []
    for file in _files(folder):
        name = os.fsencode(file.name).decode("utf-8", "replace")
        try:
            secrets.append(Secret(read_secret(file), {owner_of(name): name}))
        except SettingsError as error:
            problems.extend(error.problems)
    if problems:
        raise SettingsError(tuple(problems))
    return _merged(secrets)


def _files(folder: Path) -> list[Path]:
    try:
        entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from None
    files = list(filter(_may_be_secret, entries))
    if not 0 < len(files) <= _MOST:
        raise _refused(f"{folder} has {len(files)} files; 1 to {_MOST} secrets are expected")
    return files


def _may_be_secret(file: Path) -> bool:
    """It is a file; or nobody can tell, and reading it will say why."""
    try:
        return S_ISREG(file.stat().st_mode)
    except OSError:
        return True


def _merged(secrets: Iterable[Secret]) -> tuple[Secret, ...]:
    """Each value once, with all its owners; of two names for one owner the first stays."""
    names: dict[bytes, dict[str, str]] = {}
    for secret in secrets:
        own = names.setdefault(secret.value, {})
        for owner, name in secret.names.items():
            own.setdefault(owner, name)
    return tuple(Secret(value, own) for value, own in names.items())


class LiveSecrets:
    """The live secrets: call it for the present ones. They change only while :meth:`watch` runs."""

    def __init__(self, *, fixed: Sequence[Secret] = (), folder: Path | None = None) -> None:
        """``fixed`` ones come first and stay. Raises SettingsError where the folder is no good, or there is no secret."""
        self._fixed = tuple(fixed)
        self._folder = folder
        self._secrets = self._read()
        self._complaint = ""
        self._taken = time.time()
        self._log = structlog.get_logger()
        if not self._secrets or not all(each.value for each in self._secrets):
            raise _refused("there is no secret to verify webhooks with")

    @property
    def refused(self) -> bool:
        """What the folder holds now is no good, and the secrets before it are live."""
        return bool(self._complaint)

    @property
    def taken(self) -> float:
        """When the live secrets were read, in seconds since 1970."""
        return self._taken

    def __call__(self) -> Sequence[Secret]:
        """The secrets that are live now; never empty, no value twice, and the same object until something changes."""
        return self._secrets

    async def watch(self, *, interval: float = INTERVAL) -> None:
        """Re-read the folder every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Re-read the folder, beside the event loop. Where that fails, the secrets stay as they are."""
        try:
            secrets = await self._settled()
        except SettingsError as error:
            self._complain(str(error), files=len(error.problems))
            return
        if secrets != self._secrets:
            added, removed = _beyond(secrets, self._secrets), _beyond(self._secrets, secrets)
            self._log.info("secrets.changed", live=len(secrets), added=added, removed=removed)
            self._secrets, self._taken = secrets, time.time()
        self._complaint = ""

    async def _settled(self) -> tuple[Secret, ...]:
        """What the folder holds twice in a row: what stands in it only for a moment (half a file, half a swap) may be
        no secret. Where it goes on changing, what there was. Raises SettingsError.
        """
        before = self._secrets
        for _ in range(_LOOKS):
            found = await asyncio.to_thread(self._read)
            if found == before:
                return found
            before = found
            await asyncio.sleep(SETTLING)
        return self._secrets

    def _complain(self, complaint: str, *, files: int) -> None:
        if complaint != self._complaint:  # once, and not every two seconds
            self._log.error("secrets.kept", reason=complaint, problems=files, live=len(self._secrets))
        self._complaint = complaint

    def _read(self) -> tuple[Secret, ...]:
        return _merged((*self._fixed, *(() if self._folder is None else read_secrets(self._folder))))


def _beyond(secrets: Iterable[Secret], others: Iterable[Secret]) -> list[str]:
    """The names that the others do not have, or have for another value or owner."""
    known = {(each.value, *owned) for each in others for owned in each.names.items()}
    return [name for each in secrets for owner, name in each.names.items() if (each.value, owner, name) not in known]


def _refused(sentence: str) -> SettingsError:
    return SettingsError((Problem(sentence),))


def _unreadable(path: Path, error: OSError) -> SettingsError:
    return _refused(f"{path} cannot be read ({error.strerror})")
