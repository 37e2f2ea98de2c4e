"""Where an access token comes from. No token or client secret is ever in a ``repr``, an error or a log.

Facts: "Integrations" and "Service Apps" guides: ``POST /v1/access_token`` with a form; access tokens live 14 days,
refresh tokens 90, and what counts is ``expires_in``; a refresh may replace the refresh token too, so that the old one
must be thought dead.
"""

from __future__ import annotations

from service.webex.tokens.files import FILE_CHECK, SecretFile, checked_token
from service.webex.tokens.grants import Grant
from service.webex.tokens.oauth import Credentials, OAuth, RefreshingToken
from service.webex.tokens.renewed import RenewedToken
from service.webex.tokens.sources import Credential, FileToken, StaticToken, TokenSource

__all__ = [
    "FILE_CHECK",
    "Credential",
    "Credentials",
    "FileToken",
    "Grant",
    "OAuth",
    "RefreshingToken",
    "RenewedToken",
    "SecretFile",
    "StaticToken",
    "TokenSource",
    "checked_token",
]
