"""Settings of the answer cache. See docs/cache.md."""

from __future__ import annotations

from pydantic import Field, model_validator

from spillway.settings import Section, StoreSettings


class CacheSettings(Section):
    """Which answers are kept, and for how long."""

    enabled: bool = Field(False, description="off: no answer is kept or shared, whatever a request asks for")
    by_default: bool = Field(True, description="for requests that do not say; off: only for those that ask")
    ttl_s: float = Field(3600.0, gt=0, description="longest time an answer is kept")
    sensitive_ttl_s: float | None = Field(
        None,
        gt=0,
        description="the same where the content is local_only or above `internal` and the request asks; absent: never",
    )
    max_bytes: int = Field(256 * 1024, gt=0, description="largest answer that is kept")
    store: StoreSettings | None = Field(
        None, description="a Redis or Valkey of its own, which may evict; absent: the one that replicas share"
    )

    @model_validator(mode="after")
    def _sensitive_expires_first(self) -> CacheSettings:
        if self.sensitive_ttl_s is not None and self.sensitive_ttl_s > self.ttl_s:
            raise ValueError(f"sensitive_ttl_s: must not be above ttl_s, which is {self.ttl_s:g}")
        return self
