"""Vouching: finds out how likely an answer is right, by the validator's score of all that can be known of it.

More can be known where the policy asks for it: whether further samples of the same target agree, and what a judge model
thinks. What cannot be had of that is a sign that is unknown, never an error. A target is named to the validator as it
is declared, so that replicas are one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace

from spillway import v1
from spillway.errors import SpillwayError
from spillway.logs import get_logger

from .attempts import Answer, Attempts
from .chain import binding
from .confidence import NOBODY, VALIDATOR, Confidence, least, sampled, with_logprobs
from .facts import Validation
from .journal import Attempt
from .opinion import opinion, question
from .patience import share_s
from .plan import Candidate
from .prompt import read_prompt
from .scorer import Scorer
from .work import Work

log = get_logger(__name__)

MAJORITY = 0.5
"""Share of the other samples that agree with the first answer from which no other can have more on its side."""
PATIENCE = 1.5
"""Samples and a judge may take so many times a target's share of the deadline: what is silent fails within one."""


class Vouching:
    """Vouches for answers of `attempts`. Without a `scorer` their own probabilities are all there is."""

    def __init__(self, attempts: Attempts, scorer: Scorer | None) -> None:
        self._attempts = attempts
        self._scorer = scorer

    def spec(self, work: Work, candidate: Candidate) -> v1.GenerationSpec:
        """The request as its answer tells most of itself."""
        return with_logprobs(work.spec) if "logprobs" in candidate.target.capabilities else work.spec

    async def vouch(self, work: Work, candidate: Candidate, attempt: Attempt, answer: Answer) -> Answer:
        """Return the answer to give, doubted where it is not likely enough to be right.

        With samples that is the one most of them agree with. What nothing is known of is doubted unless it was
        accepted: then something has vouched for it.
        """
        found = Confidence.own(answer.response)
        calls = any(choice.content.tool_calls for choice in answer.response.choices)
        if self._scorer is not None and not calls:
            try:
                answer, found = await self._scored(self._scorer, work, candidate, answer)
            except SpillwayError as error:
                log.warning("answer.unscored", target=candidate.target.name, why=error.reason)
                found = replace(found, away=f"the validator did not say ({error.reason})")
        attempt.confidence = found
        if found.score is None:
            return replace(answer, doubted=answer.verdict is None)
        return replace(answer, doubted=found.score < work.plan.limits.confidence_threshold)

    async def _scored(
        self, scorer: Scorer, work: Work, candidate: Candidate, answer: Answer
    ) -> tuple[Answer, Confidence]:
        """Return the answer that most agree with, and the validator's score of it."""
        request = v1.ScoreConfidenceRequest(
            target=candidate.target.called,
            task=work.policy.task,
            prompt=read_prompt(_prompt(work.spec)).texts,
        )
        # A grammar is in the dialect of one target: to the validator its answers are text.
        if work.spec.constraint.WhichOneof("constraint") not in (None, "grammar"):
            request.constraint.CopyFrom(work.spec.constraint)

        async def score(choices: Sequence[v1.Choice], judged: float | None = None) -> v1.ScoreConfidenceResponse:
            asked = v1.ScoreConfidenceRequest(answers=map(_told, choices), judge_score=judged)
            asked.answers[0].logprobs.extend(choices[0].content.logprobs)
            asked.MergeFrom(request)
            return await scorer.score(asked, work.call)

        choices = answer.response.choices
        if len(choices) > 1:  # the caller wants them to differ, so they are no samples of each other
            scores = await asyncio.gather(*(score([choice]) for choice in choices))
            return answer, _confidence(least(map(_score, scores)))
        found = await score(choices)  # first of all: without the validator nobody need be asked for more
        answers = [answer, *await self._samples(work, candidate)]
        said = [each.response.choices[0] for each in answers]
        if len(answers) > 1:
            found = await score(said)
        if len(answers) > 1 and found.signs.agreement < MAJORITY:
            turned = [[said[at], *said[:at], *said[at + 1 :]] for at in range(len(said))]
            others = [at for at in range(1, len(said)) if not answers[at].refused]
            scores = [found, *await asyncio.gather(*(score(turned[at]) for at in others))]
            best = max(range(len(scores)), key=lambda at: scores[at].signs.agreement)  # the first of equals
            found, place = scores[best], [0, *others][best]
            answer, said = answers[place], turned[place]
        if work.plan.judge is not None:
            judged = await self._opinion(work, work.plan.judge, answer)
            if judged is not None:
                found = await score(said, judged)
        return answer, _confidence(_score(found))

    async def _samples(self, work: Work, candidate: Candidate) -> list[Answer]:
        """Return further answers of the target, all asked for at once; those that failed or came late are left out."""
        asked = self.spec(work, candidate)
        tasks = [
            asyncio.create_task(self._attempts.aside(work, candidate, sampled(asked, number)), name=f"sample {number}")
            for number in range(1, work.plan.limits.samples)
        ]
        if not tasks:
            return []
        try:
            await asyncio.wait(tasks, timeout=PATIENCE * share_s(work, candidate))
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for one in ended:
            if isinstance(one, SpillwayError):
                log.warning("sample.missing", target=candidate.target.name, why=one.reason)
            elif isinstance(one, Exception):
                raise one
        return [one for one in ended if isinstance(one, Answer)]

    async def _opinion(self, work: Work, judge: Candidate, answer: Answer) -> float | None:
        """Return what the judge thinks of `answer`, None where it does not say."""
        text = answer.response.choices[0].content.text
        asked = question(work.spec, text, judge.target, secrets.token_hex(8))
        plan = replace(work.plan, validation=Validation.OFF)
        side = replace(work, spec=asked, policy=binding(work.policy), plan=plan)
        try:
            async with asyncio.timeout(PATIENCE * share_s(work, judge)):
                found = await self._attempts.aside(side, judge, asked)
        except (SpillwayError, TimeoutError) as error:
            why = error.reason if isinstance(error, SpillwayError) else "it took too long"
            log.warning("judge.silent", target=judge.target.name, why=why)
            return None
        return opinion(found.response)

    def __repr__(self) -> str:
        return f"<Vouching by {self._scorer!r}>"


def _prompt(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """What was said, without what the answer has to be: that is the same in many prompts, and hides what is new."""
    match spec.WhichOneof("input"):
        case "chat":
            return v1.GenerationSpec(chat=spec.chat)
        case "text":
            return v1.GenerationSpec(text=spec.text)
        case _:
            return v1.GenerationSpec()


def _told(choice: v1.Choice) -> v1.SampledAnswer:
    truncated = choice.finish.reason == v1.FINISH_REASON_LENGTH
    return v1.SampledAnswer(text=choice.content.text, truncated=truncated)


def _score(response: v1.ScoreConfidenceResponse) -> float | None:
    return response.score if response.HasField("score") else None


def _confidence(score: float | None) -> Confidence:
    return Confidence(score, NOBODY if score is None else VALIDATOR)
