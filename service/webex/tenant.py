"""One organisation at Webex: its credential, and a client of its own, so that its rate budget is its own too."""

from __future__ import annotations

from service.core.rate import Lane
from service.webex.api import WebexApi
from service.webex.client import WebexClient
from service.webex.commanding import Commanding
from service.webex.operations import by_id, request_for
from service.webex.sponsoring import SponsoringApi
from service.webex.tokens import Credential


class Tenant:
    """The calls for one organisation, and what tells whether it still wants them.

    ``sweeping`` are the same calls as ``api``, where nobody waits for the answer; ``commanding`` is any operation by its name,
    and ``sponsoring`` what guest-to-guest meetings take.
    """

    def __init__(self, client: WebexClient, credential: Credential) -> None:
        self.client, self._credential = client, credential
        self.api, self.sweeping = WebexApi(client), WebexApi(client.lane(Lane.SWEEP))
        self.commanding, self.sponsoring = Commanding(client), SponsoringApi(client)

    async def probe(self) -> None:
        """One cheap read: a list of one meeting. Raises WebexError; WebexUnauthorized where the token is not accepted."""
        await self.client.call(request_for(by_id("listMeetings"), query={"max": 1}))

    async def renew(self) -> None:
        """Have a token that was issued after this call, where the credential can get one. Raises WebexError."""
        await self._credential.renew()

    def version(self) -> str:
        """Changes whenever an operator replaced the credential."""
        return self._credential.version()

    def token_ends(self) -> float | None:
        """When the access token ends, in seconds since 1970; None where nobody knows."""
        expires = self._credential.expires()
        return None if expires is None else expires.timestamp()
