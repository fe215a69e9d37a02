"""The way of a delta past whoever would read it."""

from __future__ import annotations

from collections.abc import Callable

Bypass = Callable[[bytes, int], bool]
"""Takes a delta, a serialized GenerationEvent, and its tokens. False: not now; it goes the way of all events."""
