"""Organisations: whose event it is, and under which key its work stands.

Webex writes an organisation's id in two ways: bare (a UUID), and as base64 of ``ciscospark://us/ORGANIZATION/<id>`` (Webex
for Developers, "Webex REST API Basics", ids). The same organisation may come as either, so only bare ids are compared.

A key is what hints and the ledger are partitioned by, so it must never change: another key would begin with an empty
memory and decide anew what people had decided. That is why the first credential's key is a word and not an id.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

#: The key of the credential that the settings name without an organisation; with a single one, of everything.
ONLY_ORGANIZATION = "default"

#: The key of events that name no organisation, where there are several: nobody can know whose they are.
UNKNOWN_ORGANIZATION = "unknown"

#: Far longer than any id that Webex gives.
_LONGEST = 512
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_URI = re.compile(r"ciscospark://[a-z0-9_:.-]{0,64}/([a-z]{1,32})/([a-z0-9-]{1,64})", re.IGNORECASE)


def organization_id(value: object) -> str:
    """The bare id, in lower case, in whichever form ``value`` has it; "" where it is no organisation's id. Total."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return ""
    return value.lower() if _UUID.fullmatch(value) else _decoded(value, "ORGANIZATION")


def registration_id(value: object) -> str:
    """``webhook:<bare id>`` of a registration (``ciscospark://…/WEBHOOK/…`` in base64); "" where it is none's id. Total.

    The prefix keeps it apart from organisations: whoever writes an organisation's UUID as a registration is not that one.
    """
    bare = _decoded(value, "WEBHOOK") if isinstance(value, str) and len(value) <= _LONGEST else ""
    return f"webhook:{bare}" if bare else ""


def wire_id(value: str) -> str:
    """The form in which Webex itself writes the id: base64, URL-safe, without padding.

    Raises ValueError for what is no organisation's id.
    """
    bare = organization_id(value)
    if not bare:
        raise ValueError("this is not the id of a Webex organisation")
    if not _UUID.fullmatch(value):
        return value  # as Webex gave it: the cluster in it may be another than "us"
    return _written(bare)


def _written(bare: str) -> str:
    return base64.urlsafe_b64encode(f"ciscospark://us/ORGANIZATION/{bare}".encode()).decode().rstrip("=")


@lru_cache(maxsize=1024)
def _decoded(value: str, kind: str) -> str:
    """The bare id, in lower case, of what Webex calls a ``kind``."""
    padded = value.rstrip("=").replace("+", "-").replace("/", "_")
    padded += "=" * (-len(padded) % 4)
    try:
        uri = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    match = _URI.fullmatch(uri)
    return match[2].lower() if match and match[1].upper() == kind else ""


class Organization(msgspec.Struct, frozen=True):
    """One organisation that there is a credential for. ``id`` is bare, "" where the settings do not say; ``name`` is the
    operator's own, in lower case, "" for the one that has none.
    """

    key: str
    id: str = ""
    name: str = ""

    @property
    def org_id(self) -> str:
        """The id as events carry it: in Webex's own form; "" where it is not known."""
        return _written(self.id) if self.id else ""

    def answers_to(self, given: str) -> bool:
        """Whether it is meant: by its id in either form, its name in the settings, or its key."""
        bare = organization_id(given)
        return bool(bare and bare == self.id) or given == self.key or bool(self.name and given.lower() == self.name)


class Organizations(msgspec.Struct, frozen=True):
    """The organisations of the settings; never empty."""

    known: Sequence[Organization] = (Organization(ONLY_ORGANIZATION),)

    def named(self, given: object) -> Organization | None:
        """The one that ``given`` means; None where nobody can say. With one organisation nothing (None) means that one."""
        if given is None:
            return self.known[0] if len(self.known) == 1 else None
        meant = [each for each in self.known if isinstance(given, str) and each.answers_to(given)]
        return meant[0] if len(meant) == 1 else None

    def key_of(self, org_id: object) -> str:
        """The key for an event with this ``orgId``.

        With one organisation it is always that one's, whatever the event carries: webhooks of partners and Service Apps
        name organisations of their own. With several it is that of the one with this id; one that is not configured has
        its bare id, so that its work waits where it will be found when it is; without an id it is ``unknown``.
        """
        if len(self.known) == 1:
            return self.known[0].key
        bare = organization_id(org_id)
        for each in self.known:
            if bare and each.id == bare:
                return each.key
        return bare if _UUID.fullmatch(bare) else UNKNOWN_ORGANIZATION


#: What there is without any setting about organisations.
SINGLE = Organizations()
