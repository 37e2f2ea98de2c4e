"""The role ``processor``, built here from the settings. What is entered first ends last."""

from __future__ import annotations

import contextlib

import structlog

from service.cli.buses import opened_bus
from service.cli.credentials import credentials
from service.cli.garbage import spare_what_stays
from service.cli.health import Health
from service.cli.policy_file import LivePolicy
from service.cli.private_listener import private_listener
from service.cli.processing import processing
from service.cli.shutdown import Stop, unless_stopped
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress


async def serve_processor(settings: Settings, stop: Stop) -> None:
    """Look, decide, act, verify: until ``stop``. Raises SettingsError, PolicyError, JournalError."""
    found = credentials(settings)
    policy = LivePolicy(settings.policy.file)
    metrics, progress = Metrics(), Progress()
    metrics.watch_loops(progress.ages)
    health = Health(stop=stop, progress=progress)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with unless_stopped(stop):
            private = await enter(private_listener(settings, metrics, health, stop=stop))
            bus = await enter(opened_bus(settings, stop=stop, spool=False, tell=health.starting))
            await enter(private.showing(bus))
            await enter(processing(settings, bus, metrics, policy, found, progress, stop=stop))
            spare_what_stays()
            health.started = True
            structlog.get_logger().info(
                "processor.started", policy=policy().version, bus=settings.bus, organizations=len(found)
            )
        await stop.wait()
        structlog.get_logger().info("processor.stopping")
