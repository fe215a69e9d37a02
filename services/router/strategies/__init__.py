"""How plans are carried out: one strategy a file."""

from __future__ import annotations

from collections.abc import Mapping

from services.router.attempts import Attempts
from services.router.facts import StrategyName
from services.router.vouching import Vouching

from .cascade import Cascade
from .direct import Direct
from .draft_refine import DraftRefine
from .draft_verify import DraftVerify
from .hedge import Hedge
from .strategy import Strategy

__all__ = ["Strategy", "strategies"]


def strategies(attempts: Attempts, vouching: Vouching) -> Mapping[StrategyName, Strategy]:
    """Every strategy, by its name."""
    return {
        StrategyName.DIRECT: Direct(attempts),
        StrategyName.CASCADE: Cascade(attempts, vouching),
        StrategyName.HEDGE: Hedge(attempts),
        StrategyName.DRAFT_REFINE: DraftRefine(attempts),
        StrategyName.DRAFT_VERIFY: DraftVerify(attempts),
    }
