"""Settings of the OpenAI-compatible edge."""

from __future__ import annotations

from pydantic import Field

from spillway.settings import Section


class HttpSettings(Section):
    """The OpenAI-compatible listener. Its keys, deadline, stall limit and drain are those of `server`."""

    listen: str | None = Field(
        None, pattern=r"^.*:\d{1,5}$", description="host:port; port 0 takes a free one; absent: off"
    )
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="longest request body accepted, in bytes")
    keep_alive_s: int = Field(75, gt=0, description="an idle connection is closed after so long")
