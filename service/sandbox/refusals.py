"""How the simulated Webex says no: a status and the body that Cisco's OpenAPI gives for errors."""

from __future__ import annotations

from typing import Any

from service.core.errors import EventProcessorError


class Refusal(EventProcessorError):
    """An API call that is answered with ``status`` and an error body."""

    def __init__(self, status: int, message: str, description: str = "", *, retry_after: float | None = None) -> None:
        """``retry_after`` in seconds."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.description = description or message
        self.retry_after = retry_after


def error_body(refusal: Refusal, *, tracking_id: str) -> dict[str, Any]:
    """``{"message", "errors": [{"description"}], "trackingId"}``."""
    return {
        "message": refusal.message,
        "errors": [{"description": refusal.description}],
        "trackingId": tracking_id,
    }


def invalid(description: str) -> Refusal:
    """400 for a parameter or a field."""
    return Refusal(400, "The input parameters contain invalid items.", description)


def not_found(description: str) -> Refusal:
    """404."""
    return Refusal(404, "The requested resource could not be found.", description)
