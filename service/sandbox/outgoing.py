"""Webhooks that wait for their delivery. They are stored: a restart tries again what was not answered 2xx before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from service.sandbox.documents import Documents
from service.sandbox.records import Notification

#: Webhooks kept for each address; beyond this the oldest is given up, as Webex promises no delivery.
KEPT = 1_000


class Outgoing:
    """The queue, and what became of its entries. Changes become durable with the world's next commit."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        stored = documents.read("notification", Notification).values()
        self._waiting = {entry.n: entry for entry in sorted(stored, key=lambda entry: entry.n)}

    def listen(self, listener: Callable[[], None]) -> None:
        """``listener`` is called whenever something may have to be delivered."""
        self._documents.listen(listener)

    def add(self, notification: Notification) -> None:
        """One more to be told; its number is given here. Whatever waits for its follower comes after it."""
        self._append(notification)
        for waiting in [
            entry for entry in self._waiting.values() if entry.swapped and _lane(entry) == _lane(notification)
        ]:
            if not notification.swapped:
                self._dismiss(waiting)
                self._append(msgspec.structs.replace(waiting, swapped=False))
        same = [entry for entry in self._waiting.values() if entry.hook == notification.hook]
        if len(same) > KEPT:
            self.give_up(same[0])

    def _append(self, notification: Notification) -> None:
        n = self._documents.count(notifications=1).notifications
        self._keep(msgspec.structs.replace(notification, n=n))

    def heads(self, *, default: bool = True) -> Sequence[Notification]:
        """The oldest one of each lane: what is about one meeting goes out one after the other to each address.

        ``default``: whether there is an address for those that belong to no registered webhook.
        """
        heads: dict[tuple[str, str, int], Notification] = {}
        for notification in self._waiting.values():
            if not notification.swapped and (notification.hook or default):
                heads.setdefault((*_lane(notification), notification.n if notification.late else 0), notification)
        return tuple(heads.values())

    def delivered(self, notification: Notification) -> None:
        """It was answered 2xx."""
        self._documents.count(delivered=1, attempts=1)
        self._dismiss(notification)

    def attempted(self, notification: Notification) -> None:
        """It was not answered 2xx and will be tried again."""
        self._documents.count(attempts=1)
        if notification.n in self._waiting:
            self._keep(msgspec.structs.replace(notification, attempts=notification.attempts + 1))

    def give_up(self, notification: Notification) -> None:
        """It will not be tried again: lost, as with Webex."""
        self._documents.count(failed=1)
        self._dismiss(notification)

    def skip(self, notification: Notification) -> None:
        """Somebody else is told already."""
        self._dismiss(notification)

    def figures(self) -> dict[str, int]:
        """How many were delivered, given up, sent at all, and wait."""
        counted = self._documents.counters
        return {
            "delivered": counted.delivered,
            "failed": counted.failed,
            "attempts": counted.attempts,
            "waiting": len(self._waiting),
        }

    def _keep(self, notification: Notification) -> None:
        self._waiting[notification.n] = notification
        self._documents.put("notification", str(notification.n), notification)

    def _dismiss(self, notification: Notification) -> None:
        self._waiting.pop(notification.n, None)
        self._documents.put("notification", str(notification.n), None)


def _lane(notification: Notification) -> tuple[str, str]:
    return notification.hook, notification.meeting
