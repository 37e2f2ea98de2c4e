"""Webhooks as Webex sends them, ready to be written to a socket: signed, and each body of exactly 941 bytes."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import msgspec

from service.core.signature import SPARK, sign

SIZE = 941
SECRET = b"a secret of the benchmarks, 32 b."
PATH = "/webhooks/webex"

_PERSON = "Y2lzY29zcGFyazovL3VzL1BFT1BMRS8wMDAwMDAwMi0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDA"
_ORGANIZATION = "00000001-0000-4000-8000-000000000000"

#: A proxy adds what is forwarded; the rest is Webex's.
_HEAD = """\
POST {path} HTTP/1.1\r
Host: hooks.example.com\r
User-Agent: SparkWebhook/1.0\r
Accept: */*\r
Accept-Encoding: gzip\r
Content-Type: application/json;charset=UTF-8\r
Content-Length: {length}\r
TrackingID: ROUTER_{tracking}\r
X-Forwarded-For: 192.0.2.17\r
X-Forwarded-Proto: https\r
X-Spark-Signature: {signature}\r
\r
"""

#: What uvicorn's own documentation shows, asked for as a browser's script would.
GREETING = b"GET / HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: SparkWebhook/1.0\r\nAccept: */*\r\n\r\n"


def deliveries(kind: str, keys: int) -> list[bytes]:
    """One request for each of ``keys`` meetings. ``started`` becomes an event and a hint, ``joined`` an event."""
    data = {"started": _started, "joined": _joined}[kind]
    return [_request(kind, data(_series(number))) for number in range(keys)]


def _series(number: int) -> str:
    return hashlib.blake2b(b"meeting %d" % number, digest_size=16).hexdigest()


def _started(series: str) -> dict[str, Any]:
    return {
        "id": f"{series}_I_204316955237236650",
        "meetingType": "meeting",
        "timezone": "UTC",
        "start": "2026-01-20T15:00:02Z",
        "state": "inProgress",
        "hostUserId": _PERSON,
        "hostEmail": "host@example.com",
        "siteUrl": "example.webex.com",
        "orgId": _ORGANIZATION,
    }


def _joined(series: str) -> dict[str, Any]:
    return {
        "id": f"{series}_{uuid.UUID(int=7)}",
        "meetingId": f"{series}_I_204316955237236650",
        "host": False,
        "email": "mira.sample@example.com",
        "displayName": "Mira Sample",
        "state": "joined",
        "joinedTime": "2026-01-20T15:01:07Z",
        "orgId": _ORGANIZATION,
    }


def _request(kind: str, data: dict[str, Any]) -> bytes:
    body = _padded({**_envelope(kind), "data": data})
    head = _HEAD.format(path=PATH, length=len(body), tracking=uuid.UUID(int=4), signature=sign(body, SECRET)[SPARK])
    return head.encode() + body


def _envelope(kind: str) -> dict[str, str]:
    resource = {"started": "meetings", "joined": "meetingParticipants"}[kind]
    return {
        "id": "Y2lzY29zcGFyazovL3VybjpURUFNOnVzLXdlc3QtMl9yL1dFQkhPT0svMDAwMDAwMTQtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAw",
        "name": "",
        "targetUrl": "https://hooks.example.com/webhooks/webex",
        "resource": resource,
        "event": kind,
        "orgId": "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8wMDAwMDAwMS0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDA",
        "createdBy": _PERSON,
        "ownedBy": "org",
        "status": "active",
        "created": "2026-01-10T08:00:00.000Z",
    }


def _padded(document: dict[str, Any]) -> bytes:
    """The webhook's name is the operator's, and as long as it has to be."""
    missing = SIZE - len(msgspec.json.encode(document))
    if missing < 0:
        raise ValueError(f"the document is {-missing} bytes too long")
    return msgspec.json.encode({**document, "name": ("meetings of the house " * SIZE)[:missing]})
