"""What an answer cost, in time and money, as one line or as a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli.terminal import duration, money, plain, rate, word
from spillway.client import Answer


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of one answer. Times are milliseconds as the caller saw them; None is unknown."""

    target: str
    model: str
    first_ms: float | None
    total_ms: float
    after_first_ms: float | None
    """From the first token to the last."""
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_nano_usd: int | None
    attempts: tuple[str, ...] = ()
    reason: str = ""
    verdict: str = ""
    cached: str = ""
    finish: str = ""

    @classmethod
    def of(cls, answer: Answer, *, first_ms: float | None, total_ms: float, held: bool = False) -> Figures:
        """Read them off `answer`. `held`: it came whole, so only the router knows when its first token was there."""
        usage = answer.usage
        after_first_ms = None if first_ms is None else total_ms - first_ms
        if held:
            made = _made(answer)
            first_ms = made.first_token_ms if made.HasField("first_token_ms") else None
            after_first_ms = None if first_ms is None else made.duration_ms - first_ms
        return cls(
            target=answer.target,
            model=answer.model,
            first_ms=first_ms,
            total_ms=total_ms,
            after_first_ms=after_first_ms,
            prompt_tokens=usage.prompt_tokens if usage.HasField("prompt_tokens") else None,
            completion_tokens=usage.completion_tokens if usage.HasField("completion_tokens") else None,
            cost_nano_usd=usage.cost_nano_usd if usage.HasField("cost_nano_usd") else None,
            attempts=tuple(f"{attempt.target}: {outcome(attempt)}" for attempt in answer.attempts),
            reason=answer.route_reason,
            verdict=verdict_word(answer),
            cached=cache_words(answer),
            finish=answer.finish,
        )

    def line(self, simulated: bool = False) -> Text:
        """Who answered, in one line."""
        parts = [
            f"{plain(self.target)}{' (SIMULATED)' if simulated else ''}",
            f"first token {duration(self.first_ms)}",
            f"{'-' if self.completion_tokens is None else self.completion_tokens} tokens in {duration(self.total_ms)}",
        ]
        if (per_second := rate(self.completion_tokens, self.after_first_ms)) != "-":
            parts.append(f"{per_second} tokens/s")
        parts.append("cost unknown" if self.cost_nano_usd is None else money(self.cost_nano_usd))
        if self.cached:
            parts.append(self.cached)
        if self.verdict:
            parts.append(f"verdict {self.verdict}")
        if self.finish not in ("", "stop"):
            parts.append(f"ended by {self.finish}")
        if len(self.attempts) > 1:
            parts.append(f"{len(self.attempts)} attempts ({'; '.join(plain(one) for one in self.attempts)})")
        return Text(" · ".join(parts), style="dim")


def _made(answer: Answer) -> v1.Attempt:
    """The attempt that made `answer`: summaries come before it; samples and judges after it, where it is scored."""
    last = answer.attempts[-1] if answer.attempts else v1.Attempt()
    kept = (v1.ATTEMPT_OUTCOME_ANSWERED, v1.ATTEMPT_OUTCOME_NOT_CONFIDENT)
    its = [one for one in answer.attempts if one.outcome in kept and one.target == answer.target]
    scored = (one for one in its if one.HasField("confidence"))
    return next(scored, its[-1] if its else last)


def outcome(attempt: v1.Attempt) -> str:
    """Say in a word or two how an attempt ended: answered, refused by validator, not confident (0.41), TARGET_DOWN."""
    ended = attempt.reason or word(v1.AttemptOutcome, attempt.outcome).replace("_", " ")
    return f"{ended} ({attempt.confidence:.2f})" if attempt.HasField("confidence") else ended


def verdict_word(answer: Answer) -> str:
    """The validator's word: accept, repair, retry, reject; empty where it was not asked."""
    return "" if answer.verdict is None else word(v1.VerdictDecision, answer.verdict.decision)


def cache_words(answer: Answer) -> str:
    """Say what was saved, where the answer was not made for this request: cached, 12 tokens saved."""
    if (hit := answer.cached) is None:
        return ""
    saved = f", {hit.saved_completion_tokens} tokens saved" if hit.HasField("saved_completion_tokens") else ""
    return f"{'shared' if hit.shared else 'cached'}{saved}"


def table(rows: list[tuple[str, Figures]], simulated: frozenset[str] = frozenset()) -> Group:
    """Return who answered what, one row per question; below it why, one line per question."""
    found = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    found.add_column("question")
    found.add_column("answered by", no_wrap=True)
    for name in ("first token", "tokens/s", "tokens", "cost"):
        found.add_column(name, justify="right", no_wrap=True)
    for question, figures in rows:
        fake = figures.target in simulated
        tokens = figures.completion_tokens
        found.add_row(
            question,
            Text.assemble(plain(figures.target), (" SIMULATED", "yellow") if fake else ""),
            duration(figures.first_ms),
            rate(tokens, figures.after_first_ms),
            "-" if tokens is None else str(tokens),
            money(figures.cost_nano_usd),
        )
    why = Table.grid(padding=(0, 2, 0, 0))
    why.add_column(no_wrap=True)
    why.add_column(style="dim")
    for question, figures in rows:
        why.add_row(question, Text(plain(figures.reason)))
    return Group(found, Text("\nwhy", style="dim"), why)
