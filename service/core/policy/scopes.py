"""Which meetings a rule is for, and when: patterns of the shell and times, all of which have to fit."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.core.meetings import Meeting, starts
from service.core.policy.addresses import address, domain

_WILD = re.compile(r"[*?\[]")


class ScopeRefused(Exception):
    """A pattern that could never fit, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Patterns of the shell (``*``, ``?``, ``[…]``) for whole texts, whatever their case; one of them has to fit."""

    compiled: tuple[re.Pattern[str], ...]

    def fit(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts fits one of the patterns."""
        return any(pattern.match(text) for text in texts for pattern in self.compiled)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The meetings that a rule is for: those that everything given fits. What is None fits all.

    ``starts_after`` and ``starts_before`` are about the start of the meeting (of a series, of its first occurrence): from the
    one on, and before the other.
    """

    title: Patterns | None = None
    host: Patterns | None = None
    site: Patterns | None = None
    scheduled_type: Patterns | None = None
    integration_tag: Patterns | None = None
    starts_after: datetime | None = None
    starts_before: datetime | None = None

    def covers(self, meeting: Meeting) -> bool:
        """Whether the rule is for this meeting; never raises."""
        return (
            _fits(self.title, [meeting.title])
            and _fits(self.host, [address(meeting.host_email)])
            and _fits(self.site, _texts(meeting, "siteUrl"))
            and _fits(self.scheduled_type, _texts(meeting, "scheduledType"))
            and _fits(self.integration_tag, _texts(meeting, "integrationTags"))
            and self._starts_in_time(meeting)
        )

    def _starts_in_time(self, meeting: Meeting) -> bool:
        if self.starts_after is None and self.starts_before is None:
            return True
        start = starts(meeting)
        return start is not None and Window(since=self.starts_after, until=self.starts_before).includes(start)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time: from ``since`` on, and before ``until``; None is open."""

    since: datetime | None = None
    until: datetime | None = None

    def includes(self, moment: datetime) -> bool:
        """Whether ``moment`` is in it."""
        return (self.since is None or self.since <= moment) and (self.until is None or moment < self.until)


#: All meetings, and always.
EVERYWHERE = Scope()
ALWAYS = Window()


def patterns(written: Sequence[str]) -> Patterns:
    """What ``written`` stands for."""
    return Patterns(compiled=tuple(re.compile(fnmatch.translate(one), re.IGNORECASE) for one in written))


def host_pattern(written: str) -> str:
    """A pattern for a host's address in the form of :func:`service.core.policy.addresses.address`. Raises ScopeRefused.

    It has exactly one ``@``, so that ``*example.org`` cannot be written where ``*@example.org`` is meant, and no wild card
    reaches across it. A domain without wild cards is compared as e-mail domains are.
    """
    local, at, host = written.partition("@")
    if not (local and at and host) or "@" in host or "@" in "".join(re.findall(r"\[[^\]]*\]?", written)):
        raise ScopeRefused('a host is an address: "ann@example.org", "*@example.org"')
    usual = host.lower() if _WILD.search(host) else domain(host)
    if not (usual and local.isascii() and usual.isascii()):
        raise ScopeRefused("this never equals the address of a host, which has an ASCII name and a domain")
    return f"{local}@{usual}"


def _fits(wanted: Patterns | None, texts: Iterable[str]) -> bool:
    return wanted is None or wanted.fit(texts)


def _texts(meeting: Meeting, name: str) -> list[str]:
    value = meeting.fields.get(name)
    every = value if isinstance(value, list | tuple) else [value]
    return [text for text in every if isinstance(text, str)]
