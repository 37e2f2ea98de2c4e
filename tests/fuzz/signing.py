"""What Schemathesis loads (``SCHEMATHESIS_HOOKS``) to get past the signature of the receiver's own endpoint.

Nothing that it invents could be signed. So three of four requests are signed over the bytes that are really sent; the
others keep the headers that were invented, or that were left out.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import schemathesis
from requests import PreparedRequest
from requests.auth import AuthBase

from service.core.signature import sign

SECRET = os.environ["FUZZ_SECRET"].encode()


class Signed(AuthBase):
    """Webex's two headers over the body as it leaves."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Requests calls this last."""
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        assert isinstance(body, bytes)
        request.headers.update(sign(body, SECRET))
        return request


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Any text is as good as 128 hex digits that sign nothing, and is invented in a third of the time."""
    for parameter in raw_schema["components"]["parameters"].values():
        parameter["schema"].pop("pattern", None)


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Which are signed follows from what was invented, so that a run can be repeated. An invented encoding would hide
    everything else: those that are signed have none.
    """
    invented = repr((case.method, case.headers, case.body))
    if hashlib.sha256(invented.encode("utf-8", "surrogatepass")).digest()[0] % 4:
        kwargs["auth"] = Signed()
        if case.headers:
            case.headers.pop("Content-Encoding", None)


@schemathesis.check
class EveryKindOfAnswerIsSeen:
    """Taken, unsigned, and refused for its media type: else nobody knows whether the signing works."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def after_response(
        self, _context: schemathesis.CheckContext, response: schemathesis.Response, _case: schemathesis.Case[Any]
    ) -> None:
        """Count it."""
        self.seen[response.status_code] = self.seen.get(response.status_code, 0) + 1

    def after_run(self, _context: schemathesis.CheckContext) -> None:
        """Compare."""
        if missing := {204, 401, 405, 415} - self.seen.keys():
            raise AssertionError(f"never seen: {sorted(missing)}; seen: {sorted(self.seen.items())}")
