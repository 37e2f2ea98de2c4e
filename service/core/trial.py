"""The blast radius of a new policy: a version that replaces another one is on trial, and is held where it would change much.

The first version in force that an organisation's ledger sees is accepted; one that only says what it would do is not in
force. Registrants whom another version had left undecided and whom this one would approve or reject are its changes;
newcomers are nobody's. Where it would change more than a fifth of a meeting at once, or more than 500 registrants of the
organisation within an hour, it decides nobody until an operator confirms it. A version that was tried on every meeting for
an hour is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from service.core.ledger import KnownMeeting, PolicyRecord

#: A version on trial may change this part of a meeting's registrants in one look.
MEETING = 0.2

#: ... and so many registrants of the organisation within an hour.
ORGANIZATION = 500

HOUR = timedelta(hours=1)


def opened(record: PolicyRecord | None, version: str, *, shadow: bool, now: datetime) -> PolicyRecord | None:
    """The record with which ``version`` is in force. One that only says what it would do replaces none."""
    if record is not None and version == record.accepted:
        return PolicyRecord(accepted=version)
    if shadow or (record is not None and version == record.trial):
        return record
    if record is None:
        return PolicyRecord(accepted=version)
    return PolicyRecord(accepted=record.accepted, trial=version, since=now, hour=now)


def on_trial(record: PolicyRecord | None, version: str) -> bool:
    """Whether what ``version`` changes counts."""
    return record is not None and record.trial == version


def is_held(record: PolicyRecord | None, version: str) -> bool:
    """Whether ``version`` decides nobody until it is confirmed."""
    return record is not None and record.trial == version and bool(record.held)


def judged(record: PolicyRecord, *, changes: int, registrants: int, now: datetime) -> PolicyRecord:
    """The record as it is now that the version on trial would change so many of a meeting's ``registrants``: held, or not."""
    reason = ""
    if changes > MEETING * registrants:
        reason = f"it would change {changes} of a meeting's {registrants} registrants"
    elif _changed(record, now) + changes > ORGANIZATION:
        reason = f"it would change more than {ORGANIZATION} registrants within an hour"
    return msgspec.structs.replace(record, held=reason) if reason else record


def counted(record: PolicyRecord, changes: int, now: datetime) -> PolicyRecord:
    """The record with so many changes more: they are about to be made. Too many, and it is held instead."""
    before = _changed(record, now)
    if before + changes > ORGANIZATION:
        return msgspec.structs.replace(
            record, held=f"it would change more than {ORGANIZATION} registrants within an hour"
        )
    hour = record.hour if before else now
    return msgspec.structs.replace(record, hour=hour, changed=before + changes)


def _changed(record: PolicyRecord, now: datetime) -> int:
    return record.changed if record.hour is not None and now - record.hour < HOUR else 0


def closed(record: PolicyRecord, meetings: Iterable[KnownMeeting], now: datetime) -> PolicyRecord:
    """The record after an hour on trial: accepted, if every one of the organisation's ``meetings`` was looked at under it."""
    if not record.trial or record.held or record.since is None or now - record.since < HOUR:
        return record
    tried = all(each.policy == record.trial for each in meetings if each.registration and each.missing is None)
    return PolicyRecord(accepted=record.trial) if tried else record


def confirmed(record: PolicyRecord | None, version: str) -> PolicyRecord | None:
    """The record after an operator's word that ``version`` may change as much as it does. Another than the one on trial is
    out of date: nothing changes.
    """
    return PolicyRecord(accepted=version) if record is not None and record.trial == version else record
