"""Context: what of a prompt is dropped or condensed so that the rest fits a window. Pure: sizes in, places out.

Which messages are kept is decided on their roles and tokens; which passages, on their text, of which only places are
kept: what is decided holds nothing of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .facts import ContextName
from .passage import Span, joined, relevance, size, spans
from .plan import ContextLimits, Fit

MARK_TOKENS = 12
"""Of the words that stand for what was left out."""
PASSAGE_TOKENS = 128
"""Longest passage that is kept or left out as one."""
LEAST_NOTE_TOKENS = 16
"""A part of a document is not answered in less."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message, as far as it decides. `calls` and `results` are the ids of the tool calls in it."""

    role: str
    tokens: int
    calls: frozenset[str] = frozenset()
    results: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Document:
    """The longest text of a user, and what is asked about it."""

    message: int
    part: int
    text: str
    question: str
    """Empty: it stands in the text itself, at its beginning or end."""

    def __repr__(self) -> str:
        return f"<Document in message {self.message}, {len(self.text)} characters>"


@dataclass(frozen=True, slots=True)
class Sketch:
    """A conversation as it is decided on."""

    pieces: tuple[Piece, ...]
    tokens_per_byte: float
    document: Document | None = None

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    def weight(self, size: int) -> int:
        """Tokens of a text of `size` UTF-8 bytes."""
        return -int(-size * self.tokens_per_byte // 1)


def turns(pieces: Sequence[Piece]) -> list[tuple[int, ...]]:
    """Return the places of the messages of each turn, oldest first.

    A turn begins with what the user says and ends before the user speaks again. A tool call and its result are always
    in one turn; what the system says is in none.
    """
    found: list[list[int]] = []
    called: dict[str, int] = {}
    before = ""
    for place, piece in enumerate(pieces):
        if piece.role == "system":
            continue
        if not found or (piece.role == "user" and before != "user"):
            found.append([])
        before = piece.role
        found[-1].append(place)
        asked = min((called[one] for one in piece.results if one in called), default=len(found) - 1)
        if asked < len(found) - 1:
            found[asked:] = [[place for turn in found[asked:] for place in turn]]
            called = {one: min(turn, asked) for one, turn in called.items()}
        called.update(dict.fromkeys(piece.calls, len(found) - 1))
    return [tuple(turn) for turn in found]


def slide(sketch: Sketch, budget: int, limits: ContextLimits) -> Fit | None:
    """Keep what the system says and the newest turns that fit."""
    found = _newest(sketch, budget, len(sketch.pieces))
    if found is None:
        return None
    dropped, after = found
    return Fit(ContextName.SLIDE, sketch.tokens, after, dropped=dropped, dropped_tokens=sketch.tokens - after)


def summarize(sketch: Sketch, budget: int, limits: ContextLimits) -> Fit | None:
    """Keep what the system says and the last turns, as many as are wanted and fit; the others become a summary."""
    found = _newest(sketch, budget - limits.summary_tokens, limits.keep_last_turns)
    if found is None:
        return None
    older, after = found
    return Fit(
        ContextName.SUMMARIZE,
        sketch.tokens,
        after + limits.summary_tokens,
        summarized=older,
        summarized_tokens=sketch.tokens - after,
        reserved=limits.summary_tokens,
        each=limits.summary_tokens,
    )


def _newest(sketch: Sketch, budget: int, at_most: int) -> tuple[tuple[int, ...], int] | None:
    """Return the older messages, and the tokens of the newest turns and of what the system says. None: nothing fits."""
    pieces = sketch.pieces
    after = sum(piece.tokens for piece in pieces if piece.role == "system")
    groups = turns(pieces)
    kept = 0
    for turn in reversed(groups):
        more = sum(pieces[place].tokens for place in turn)
        if kept == at_most or after + more > budget:
            break
        after += more
        kept += 1
    older = tuple(place for turn in groups[: len(groups) - kept] for place in turn)
    return (older, after) if kept and older else None


def passages(sketch: Sketch, budget: int, limits: ContextLimits) -> Fit | None:
    """Keep the passages of the document that are most relevant to the question, in their order."""
    document = sketch.document
    if document is None:
        return None
    text = document.text
    cut = spans(text, int(PASSAGE_TOKENS / sketch.tokens_per_byte))
    if len(cut) < 2:
        return None
    tokens = [sketch.weight(size(text, span)) for span in cut]
    left = budget - (sketch.tokens - sum(tokens)) - MARK_TOKENS
    texts = [text[first:last] for first, last in cut]
    # Without a question beside it, the request stands where people put it: first or last in the text.
    question = document.question or f"{texts[0]}\n{texts[-1]}"
    scores = relevance(question, texts)
    ends = () if document.question else (len(cut) - 1, 0)
    # What has no word of the question is not worth its tokens, unless nothing has one.
    worth = [place for place, score in enumerate(scores) if score] or range(len(cut))
    kept: set[int] = set()
    for place in (*ends, *sorted(worth, key=lambda place: (-scores[place], place))):
        more = tokens[place] + MARK_TOKENS  # behind any passage there may be a gap
        if place not in kept and more <= left:
            kept.add(place)
            left -= more
        elif place in ends and place not in kept:
            return None
    if not kept or len(kept) == len(cut):
        return None
    dropped = sum(more for place, more in enumerate(tokens) if place not in kept)
    return Fit(
        ContextName.PASSAGES,
        sketch.tokens,
        budget - left,
        dropped_tokens=dropped,
        document=(document.message, document.part),
        kept_spans=tuple(cut[place] for place in sorted(kept)),
        dropped_passages=len(cut) - len(kept),
    )


def map_reduce(sketch: Sketch, budget: int, limits: ContextLimits) -> Fit | None:
    """Cut the document into parts that are answered one by one; the notes stand in its place."""
    document = sketch.document
    if document is None:
        return None
    chunks = chunked(document.text, sketch, limits.chunk_tokens)
    if not 2 <= len(chunks) <= limits.max_chunks:
        return None
    rest = sketch.tokens - sketch.weight(len(document.text.encode()))
    if not document.question:
        # What is asked stands in the text, so its ends are told again beside the notes.
        rest += 2 * PASSAGE_TOKENS
    each = min(limits.summary_tokens, (budget - rest) // len(chunks) - MARK_TOKENS)
    if each < LEAST_NOTE_TOKENS:
        return None
    reserved = len(chunks) * each
    return Fit(
        ContextName.MAP_REDUCE,
        sketch.tokens,
        rest + reserved + len(chunks) * MARK_TOKENS,
        document=(document.message, document.part),
        chunks=tuple(chunks),
        reserved=reserved,
        each=each,
    )


def chunked(text: str, sketch: Sketch, tokens: int) -> list[Span]:
    """Cut `text` into parts of at most `tokens`, between paragraphs where that is possible."""
    at_most = int(tokens / sketch.tokens_per_byte)
    return joined(text, spans(text, at_most), at_most)


def ends(document: Document, sketch: Sketch) -> str:
    """The request where it stands in the document itself: how that begins and ends. Empty if it stands beside it."""
    if document.question:
        return ""
    cut = spans(document.text, int(PASSAGE_TOKENS / sketch.tokens_per_byte))
    return "\n\n".join(document.text[first:last].strip() for first, last in (cut[0], cut[-1]))


CONDENSING: Mapping[ContextName, Callable[[Sketch, int, ContextLimits], Fit | None]] = {
    ContextName.SLIDE: slide,
    ContextName.SUMMARIZE: summarize,
    ContextName.PASSAGES: passages,
    ContextName.MAP_REDUCE: map_reduce,
}
"""Policy -> what it makes of a prompt that has to fit a budget of tokens; None where it cannot."""


def room(window: int, max_tokens: int | None) -> int:
    """Tokens of `window` that the prompt may have: the answer keeps what it asks for, at most half of the window."""
    return window - min(max_tokens or ANSWER_TOKENS, window // 2)


ANSWER_TOKENS = 256
"""Left for an answer that does not say how long it may be."""


def tightened(budget: int, after: int, limit: int) -> int:
    """The next budget to try, after one of `budget` gave a prompt of `after` tokens where `limit` are allowed.

    The tokens decided on are a share of the whole prompt's. What they miss may be a factor (another language), or a
    constant (tools, template), to which a factor comes near only in steps: so each takes a tenth more.
    """
    return budget * limit * 9 // (after * 10)
