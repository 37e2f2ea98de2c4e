"""Webex's grammar of meeting ids, as far as it is safe to rely on it. Every function is total: any text has an answer.

A series is 32 hex digits, an occurrence ``<series>_<yyyymmddThhmmssZ>``, an instance ``<series>_I_<digits>`` (Webex for
Developers, "Meeting Resource Guide"). Registrants and updates belong to the series, so most callers only want that.
"""

from __future__ import annotations

import re

_SERIES = r"[0-9A-Fa-f]{32}"
_series = re.compile(_SERIES)
_series_with_suffix = re.compile(rf"({_SERIES})(?:_.*)?", re.DOTALL)
_occurrence = re.compile(rf"{_SERIES}_[0-9]{{8}}T[0-9]{{6}}Z")
_instance = re.compile(rf"{_SERIES}_I_[0-9]+")


def series_of(value: str) -> str | None:
    """The series that a meeting id belongs to, in lower case, whatever follows the ``_``; None where it names none."""
    match = _series_with_suffix.fullmatch(value)
    return match[1].lower() if match else None


def is_series(value: str) -> bool:
    """Whether this is a series id itself, as the registrants API wants it."""
    return _series.fullmatch(value) is not None


def is_occurrence(value: str) -> bool:
    """Whether this names one scheduled occurrence of a series."""
    return _occurrence.fullmatch(value) is not None


def is_instance(value: str) -> bool:
    """Whether this names one meeting that is, or was, live."""
    return _instance.fullmatch(value) is not None
