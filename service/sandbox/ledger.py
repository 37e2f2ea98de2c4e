"""What was asked of the simulated Webex and what came of it, counted; nothing personal in it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from service.sandbox.documents import Documents
from service.sandbox.records import CallRecord, Effects, MeetingEffects, RegistrantRecord, Tally

#: Calls kept one by one; tallies go on for ever.
CALLS_KEPT = 10_000


class Ledger:
    """Calls and effects. Changes become durable with the world's next commit."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        calls = sorted(documents.read("call", CallRecord).values(), key=lambda call: call.n)
        self._calls = deque(calls, maxlen=CALLS_KEPT)
        self._tallies = documents.read("tally", Tally)
        self._effects = documents.read("effects", Effects)
        self._meetings = documents.read("meeting effects", MeetingEffects)

    def next_call(self) -> int:
        """The number of a call that has just come in, from 1."""
        return self._documents.count(calls=1).calls

    def record(self, call: CallRecord) -> None:
        """A call is about to be answered."""
        self._calls.append(call)
        self._documents.put("call", str(call.n), call)
        self._documents.put("call", str(call.n - CALLS_KEPT), None)
        key = f"{call.operation_id} {call.status}"
        self._tallies[key] = Tally(count=self._tallies.get(key, Tally()).count + 1)
        self._documents.put("tally", key, self._tallies[key])

    def affect(self, registrant: RegistrantRecord, counter: str = "", *, mail: str) -> None:
        """Something was done to a registrant: one more in ``counter``, and one more mail because of ``mail``."""
        effects = self._effects.get(registrant.id) or Effects(meeting=registrant.meeting)
        changed: dict[str, Any] = {counter: getattr(effects, counter) + 1} if counter else {}
        if mail:
            changed["outbox"] = {**effects.outbox, mail: effects.outbox.get(mail, 0) + 1}
        self._effects[registrant.id] = msgspec.structs.replace(effects, **changed)
        self._documents.put("effects", registrant.id, self._effects[registrant.id])

    def affect_meeting(self, meeting_id: str, counter: str, *, mail: bool = False) -> None:
        """Something was done to a meeting: one more in ``counter``, and a mail because of it where ``mail``."""
        effects = self._meetings.get(meeting_id) or MeetingEffects()
        outbox = {**effects.outbox, counter: effects.outbox.get(counter, 0) + 1} if mail else effects.outbox
        changed: dict[str, Any] = {counter: getattr(effects, counter) + 1, "outbox": outbox}
        self._meetings[meeting_id] = msgspec.structs.replace(effects, **changed)
        self._documents.put("meeting effects", meeting_id, self._meetings[meeting_id])

    def forget(self, meeting_id: str, registrant_ids: Iterable[str]) -> None:
        """Drop the effects of these."""
        self._meetings.pop(meeting_id, None)
        self._documents.put("meeting effects", meeting_id, None)
        for registrant_id in registrant_ids:
            self._effects.pop(registrant_id, None)
            self._documents.put("effects", registrant_id, None)

    def shown(self, *, statuses: Mapping[str, str]) -> dict[str, Any]:
        """Every call (the latest 10 000 one by one) and every effect; ``statuses`` of those who are still registered."""
        return {
            "calls": [msgspec.to_builtins(call) for call in self._calls],
            "tallies": {key: tally.count for key, tally in self._tallies.items()},
            "meetings": {id_: msgspec.to_builtins(effects) for id_, effects in self._meetings.items()},
            "effects": {id_: _shown(effects, statuses.get(id_, "deleted")) for id_, effects in self._effects.items()},
        }

    def figures(self, meeting_id: str, *, statuses: Mapping[str, str]) -> dict[str, Any]:
        """How many calls there were, and over the registrants of one meeting ("": of all): how many have which status, and
        of every counter the sum and the most that one of them has.
        """
        found = {id_: one for id_, one in self._effects.items() if meeting_id in ("", one.meeting)}
        counted = [_counted(effects) for effects in found.values()]
        return {
            "calls": self._documents.counters.calls,
            "tallies": {key: tally.count for key, tally in self._tallies.items()},
            "statuses": dict(Counter(statuses.get(id_, "deleted") for id_ in found)),
            "sums": {name: sum(one[name] for one in counted) for name in _COUNTED},
            "most": {name: max((one[name] for one in counted), default=0) for name in _COUNTED},
        }


_COUNTED = ("approved", "rejected", "cancelled", "repeated", "other", "mails")


def _counted(effects: Effects) -> dict[str, int]:
    mails = sum(effects.outbox.values())
    return {name: mails if name == "mails" else getattr(effects, name) for name in _COUNTED}


def _shown(effects: Effects, status: str) -> dict[str, Any]:
    mails = sum(effects.outbox.values())
    counted = {name: value for name, value in msgspec.structs.asdict(effects).items() if name != "meeting"}
    return {"meetingId": effects.meeting, "status": status, **counted, "mails": mails}
