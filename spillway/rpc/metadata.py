"""Names of the metadata that travels with a call."""

from __future__ import annotations

from typing import Final

AUTHORIZATION: Final = "authorization"
REQUEST_ID: Final = "x-spillway-request-id"
TENANT: Final = "x-spillway-tenant"
HOP: Final = "x-spillway-hop"
ATTEMPTS_LEFT: Final = "x-spillway-attempts-left"
FIRST_TOKEN_MS: Final = "x-spillway-first-token-ms"
"""How long the router that calls waits for a first token, where that is not the deadline."""
MAX_FIRST_TOKEN_MS: Final = 999_999_999
"""Eleven days; of a longer time so much is told."""
TARGET: Final = "x-spillway-target"
MODEL: Final = "x-spillway-model"
ROUTE_REASON: Final = "x-spillway-route-reason"
ALIVE: Final = (("x-spillway-alive", "1"),)
"""What a target sends with its first token where it has nothing else to tell: headers that say nothing come with a
refusal too."""
WORKER: Final = "x-spillway-worker"
"""RUN/NUMBER/COUNT of the process that a connection leads to, where several share a port: with health checks alone."""

MAX_HOPS: Final = 4
"""Services a request may pass before it is taken for a loop."""


def ascii_value(text: str) -> str:
    """Return `text` as gRPC allows it in metadata: printable ASCII, at most 256 characters."""
    text = text[:256]
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else "?" for char in text)
