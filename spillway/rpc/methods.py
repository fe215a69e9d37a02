"""Full names of rpcs that are told apart from others."""

from __future__ import annotations

from typing import Final

GENERATE: Final = "/spillway.v1.InferenceService/Generate"
STREAM_GENERATE: Final = "/spillway.v1.InferenceService/StreamGenerate"
SESSION: Final = "/spillway.v1.InferenceService/Session"
ENDLESS: Final = frozenset({SESSION})
"""Rpcs that last as long as their caller wants, and have no span: each request in them has one of its own."""
