"""A target: something that can answer, with its declared properties."""

from __future__ import annotations

from dataclasses import dataclass

from .policy_settings import TargetSettings


@dataclass(frozen=True, slots=True)
class Price:
    """What a target charges, in 1e-9 USD per token."""

    input_nano_usd: float
    output_nano_usd: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Cost of one answer in 1e-9 USD."""
        return round(prompt_tokens * self.input_nano_usd + completion_tokens * self.output_nano_usd)


@dataclass(frozen=True, slots=True)
class Target:
    """One engine replica, or one (provider, model). What is not declared is None: unknown, not zero."""

    name: str
    kind: str
    address: str
    model: str = ""
    region: str = "site"
    context_window: int | None = None
    capabilities: frozenset[str] = frozenset()
    quantization_bits: int | None = None
    tier: str = "small"
    price: Price | None = None
    first_token_floor_s: float = 1.0
    weights: str = ""
    concurrency: int | None = None
    replica_of: str = ""
    """Name of the declared target whose address resolved to this one; empty: it is as it was declared."""
    unresolved: str = ""
    """Why its address resolves to nothing, so that it cannot be called."""
    router: bool = False
    """It chooses among targets of its own. `kind` and `region` are of the way to it; it may send content on."""
    retention_days: int | None = None

    @classmethod
    def declared(cls, settings: TargetSettings) -> Target:
        """The target that `settings` declare."""
        price = settings.price
        return cls(
            name=settings.name,
            kind=settings.kind,
            address=settings.address,
            model=settings.model,
            region=settings.region,
            retention_days=settings.retention_days,
            context_window=settings.context_window,
            capabilities=frozenset(settings.capabilities),
            quantization_bits=settings.quantization_bits,
            tier=settings.tier or ("large" if settings.kind == "cloud" else "small"),
            # 1 USD per million tokens is 1e9 / 1e6 = 1000 nano-USD per token.
            price=Price(price.input_usd_per_mtok * 1000, price.output_usd_per_mtok * 1000) if price else None,
            first_token_floor_s=settings.first_token_floor_s,
            weights=settings.weights,
            concurrency=settings.concurrency,
            router=settings.router,
        )

    @property
    def called(self) -> str:
        """What requests and policies call it: replicas at the addresses of one name have that name together."""
        return self.replica_of or self.name

    def serves(self, *, embeds: bool) -> bool:
        """Whether it has this rpc: what embeds generates nothing, but a router may have targets of either kind."""
        return ("embeddings" in self.capabilities) is embeds or (self.router and not embeds)

    @property
    def local(self) -> bool:
        return self.kind == "local"

    def __repr__(self) -> str:
        return f"<Target {self.name} {self.kind} {self.region}>"
