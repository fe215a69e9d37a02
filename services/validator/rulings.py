"""Where rules over texts are asked: at once, by a worker where that may take long, or by those that run plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from services.validator.batch import apart
from services.validator.policies import Held, Policies, Standard
from services.validator.rules.rule import Form
from services.validator.settings import ValidatorSettings
from services.validator.verdict import Finding, FindingKind
from services.validator.workers import Workers
from spillway.errors import ConstraintUnsupported, FieldViolation, SpillwayError

UNJUDGED = Finding(FindingKind.CUSTOM, "this answer could not be judged by this rule; answer more simply")


class Rulings:
    """The policies there are, and who judges by them. The plugins of one call keep nobody waiting but other plugins."""

    def __init__(self, settings: ValidatorSettings) -> None:
        self.policies = Policies(settings.policies)
        texts = [held for held in self.policies.rules if not isinstance(held.rule, Form)]
        self.texts = [held for held in texts if not held.plugged]
        """What the workers of the service have to know."""
        plugged = [held for held in texts if held.plugged]
        self._places = {held.place: place for rules in (self.texts, plugged) for place, held in enumerate(rules)}
        own = settings.workers.model_copy(update={"processes": settings.workers.plugin_processes})
        self._plugins = Workers(settings.judgement, own, plugged) if plugged else None
        self._workers: Workers | None = None

    async def start(self, workers: Workers) -> None:
        """Ask `workers`, and start those of plugins.

        Raises OSError if one does not come up, SettingsError for a plugin that cannot be used.
        """
        self._workers = workers
        if self._plugins is not None:
            await self._plugins.start()
            self.policies.plug(self._plugins.plugins)

    async def close(self) -> None:
        """End the workers of plugins."""
        if self._plugins is not None:
            await self._plugins.close()

    async def findings(self, standard: Standard, texts: Sequence[str]) -> list[list[Finding]]:
        """Return what the rules of `standard` find in each of `texts`, called by rule.

        Raises ConstraintUnsupported where a rule takes too long, or fails, on more than some of several texts.
        """
        found: list[list[Finding]] = [[] for _ in texts]
        for held in standard.texts:
            assert not isinstance(held.rule, Form)
            if sum(map(len, texts)) <= held.rule.inline_chars:
                told = [held.rule.findings(text) for text in texts]
            else:
                told = await self._asked(held, texts)
            for findings, more in zip(found, told, strict=True):
                findings += [replace(finding, rule=held.called) for finding in more]
        return found

    async def _asked(self, held: Held, texts: Sequence[str]) -> list[Sequence[Finding]]:
        """Have a worker judge by one rule, so that what it takes too long over is its own."""
        workers = self._plugins if held.plugged else self._workers
        assert workers is not None
        try:
            told = await apart(partial(workers.rule, self._places[held.place]), texts)
        except ConstraintUnsupported as error:
            said = f"rule {held.called}: {error.message}"
            raise ConstraintUnsupported(f"policies: {said}", fields=[FieldViolation("policies", said)]) from None
        return [(UNJUDGED,) if isinstance(one, SpillwayError) else one for one in told]

    def __repr__(self) -> str:
        return f"<Rulings {self.policies!r} {self._plugins or 'no plugins'}>"
