"""An embedding carried out: one target after the other until one has embedded. Nothing is judged or resumed."""

from __future__ import annotations

from spillway import v1
from spillway.errors import SpillwayError

from .attempts import Attempts
from .chain import wishes
from .failures import Failures
from .fleet import Fleet
from .journal import Attempt
from .patience import silence_s
from .plan import Candidate
from .route_reason import reason
from .work import Embedding


class Embedder:
    """Tries the plan's targets in order. The answer is whole or there is none: it commits when it is delivered."""

    def __init__(self, attempts: Attempts, fleet: Fleet) -> None:
        self._attempts = attempts
        self._fleet = fleet

    async def embed(self, work: Embedding) -> v1.EmbedResponse:
        """Return the vectors. Raises what `Failures.outcome` says where no target has made them."""
        failures = Failures(work)
        for candidate in failures.still_worth_trying():
            try:
                response = await self._asked(work, candidate)
            except SpillwayError as error:
                failures.add(error)
                continue
            work.journal.complete(response.usage)
            response.request_id = work.call.request_id
            response.target = candidate.target.name
            response.route_reason = reason(work, candidate, response.route_reason)
            return response
        raise failures.outcome()

    async def _asked(self, work: Embedding, candidate: Candidate) -> v1.EmbedResponse:
        target = candidate.target

        async def ask(attempt: Attempt) -> v1.EmbedResponse:
            wished = wishes(work.policy, work.plan, target)
            request = v1.EmbedRequest(spec=work.spec, stamp=self._attempts.stamp(work, attempt), policy=wished)
            request.spec.model = target.model
            return await self._fleet.client(target).embed(
                attempt, request, work.journal.onward(attempt), work.journal, silence_s(work, candidate)
            )

        return await self._attempts.once(work, candidate, ask)

    def __repr__(self) -> str:
        return f"<Embedder over {self._fleet!r}>"
