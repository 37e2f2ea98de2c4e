"""The listener for probes and metrics, which every role has.

It alone begins before its turn: to verify the journal may take minutes, and whoever gets no answer from a probe for so long
would end the process, and have it begin anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from service.cli.announcement import Announcement, announced, new_token
from service.cli.buses import Bus
from service.cli.health import Health
from service.cli.serving import beside, bound, serving, url_of
from service.cli.shutdown import PROBES, Step, Stop
from service.settings import Settings
from service.telemetry.admin import PrivateApp, add_routes, create_app
from service.telemetry.lag import watch_lag
from service.telemetry.metrics import Metrics
from service.telemetry.records import record_routes


class PrivateListener:
    """The listener for probes and metrics, at ``url``: there before the bus is, and gone before it."""

    def __init__(
        self, settings: Settings, app: PrivateApp, metrics: Metrics, health: Health, ends: contextlib.AsyncExitStack
    ) -> None:
        self._settings, self._app, self._metrics, self._health, self._ends = settings, app, metrics, health, ends
        self.url = ""

    async def begin(self, *, stop: Stop) -> None:
        """Listen. Raises SettingsError."""
        await self._ends.enter_async_context(beside(self._health.keep(), stop=stop))
        await self._ends.enter_async_context(beside(watch_lag(self._metrics.loop_was_late), stop=stop))
        address = (self._settings.admin.host, self._settings.admin.port)
        listener = self._ends.enter_context(bound(*address, setting="WEBEX_EVENTS_ADMIN__PORT"))
        probes = serving(self._app, listener, stop=stop, drain=1)
        await self._ends.enter_async_context(Step("probes", probes, limit=PROBES, stop=stop))
        self.url = url_of(listener)

    @contextlib.asynccontextmanager
    async def showing(self, bus: Bus) -> AsyncIterator[None]:
        """Speak of ``bus`` too, and where that is the journal, let our own command line ask for it. The end of the block
        is the end of the listener.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._ends.aclose)
            self._health.ask_bus(unready=bus.unready, stuck=bus.stuck)
            bus.measured_by(self._metrics)
            if self._settings.bus == "journal":
                token = new_token()
                add_routes(self._app, record_routes(bus.reader, bus.publisher, token=token))
                stack.enter_context(announced(self._settings.journal.path, Announcement(self.url, token)))
            yield


@contextlib.asynccontextmanager
async def private_listener(
    settings: Settings, metrics: Metrics, health: Health, *, stop: Stop
) -> AsyncIterator[PrivateListener]:
    """The listener, which answers from now on. Raises SettingsError."""
    app = create_app(stuck=health.stuck, unready=health.unready, metrics=metrics)
    async with contextlib.AsyncExitStack() as ends:
        listener = PrivateListener(settings, app, metrics, health, ends)
        await listener.begin(stop=stop)
        yield listener
