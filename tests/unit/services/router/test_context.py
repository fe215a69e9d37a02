"""Context policies: what is dropped or condensed so that a prompt fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.router.context import (
    CONDENSING,
    Document,
    Piece,
    Sketch,
    map_reduce,
    passages,
    room,
    slide,
    summarize,
    tightened,
    turns,
)
from services.router.fitter import TRIES
from services.router.plan import ContextLimits

LIMITS = ContextLimits()


def talk(*roles: str, tokens: int = 100) -> Sketch:
    return Sketch(tuple(Piece(role, tokens) for role in roles), 1 / 3)


def paper(text: str, question: str = "") -> Sketch:
    """A document, alone or with a question after it. One token a byte."""
    pieces = [Piece("user", len(text))] + ([Piece("user", len(question))] if question else [])
    return Sketch(tuple(pieces), 1.0, Document(0, 0, text, question))


pieces = st.lists(
    st.builds(
        Piece,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.integers(0, 500),
        st.frozensets(st.sampled_from("abc"), max_size=2),
        st.frozensets(st.sampled_from("abc"), max_size=2),
    ),
    max_size=30,
)


def test_a_turn_begins_with_the_user_and_ends_before_the_user_speaks_again() -> None:
    sketch = talk("system", "assistant", "user", "user", "assistant", "tool", "assistant", "user")
    assert turns(sketch.pieces) == [(1,), (2, 3, 4, 5, 6), (7,)]


def test_a_result_that_comes_after_the_user_has_spoken_is_still_of_the_turn_of_its_call() -> None:
    found = turns(
        [
            Piece("user", 1),
            Piece("user", 1),
            Piece("assistant", 1, calls=frozenset({"a"})),
            Piece("user", 1),
            Piece("tool", 1, results=frozenset({"a"})),
            Piece("user", 1),
        ]
    )
    assert found == [(0, 1, 2, 3, 4), (5,)]


@given(pieces)
def test_every_message_but_the_systems_is_in_one_turn_in_order(found: list[Piece]) -> None:
    places = [place for turn in turns(found) for place in turn]
    assert places == [place for place, piece in enumerate(found) if piece.role != "system"]


@given(pieces)
def test_a_call_and_its_result_are_never_in_two_turns(found: list[Piece]) -> None:
    turn_of = {place: number for number, turn in enumerate(turns(found)) for place in turn}
    called: dict[str, int] = {}
    for place, piece in enumerate(found):
        if piece.role == "system":
            continue
        for one in piece.results & called.keys():
            assert turn_of[called[one]] == turn_of[place]
        called.update(dict.fromkeys(piece.calls, place))


def test_slide_keeps_the_system_and_the_newest_turns_that_fit() -> None:
    sketch = talk("system", "user", "assistant", "user", "assistant", "system", "user")
    fit = slide(sketch, 550, LIMITS)
    assert fit is not None
    assert fit.dropped == (1, 2)
    assert (fit.tokens_before, fit.tokens_after, fit.dropped_tokens) == (700, 500, 200)


def test_slide_cannot_help_where_the_newest_turn_does_not_fit() -> None:
    assert slide(talk("system", "user", "assistant", "user"), 150, LIMITS) is None


@given(pieces, st.integers(0, 3000))
def test_slide_fits_drops_whole_turns_from_the_oldest_and_never_the_newest_or_the_system(
    found: list[Piece], budget: int
) -> None:
    sketch = Sketch(tuple(found), 1 / 3)
    fit = slide(sketch, budget, LIMITS)
    if fit is None:
        return
    groups = turns(found)
    assert fit.tokens_after <= budget
    assert fit.tokens_after + fit.dropped_tokens == fit.tokens_before
    assert any(fit.dropped == sum(groups[:count], ()) for count in range(1, len(groups)))


def test_summarize_keeps_as_many_turns_as_are_wanted_and_room_for_the_summary() -> None:
    sketch = talk("system", *["user", "assistant"] * 6)
    limits = ContextLimits(keep_last_turns=2, summary_tokens=50)
    fit = summarize(sketch, 1000, limits)
    assert fit is not None
    assert fit.summarized == tuple(range(1, 9))
    assert (fit.tokens_after, fit.reserved, fit.summarized_tokens) == (550, 50, 800)
    fewer = summarize(sketch, 400, limits)
    assert fewer is not None
    assert fewer.summarized == tuple(range(1, 11))


def test_passages_keeps_what_the_question_asks_for_in_its_order() -> None:
    text = "\n\n".join(["intro " * 8, "pumps fail when dry " * 4, *["weather " * 10] * 8, "a pump was dry " * 4])
    fit = passages(paper(text, "why did pumps fail dry?"), 300, LIMITS)
    assert fit is not None
    kept = [text[first:last] for first, last in fit.kept_spans]
    assert kept[0].startswith("pumps fail")
    assert kept[-1].startswith("a pump was dry")
    assert fit.kept_spans == tuple(sorted(fit.kept_spans))
    assert len(fit.kept_spans) + fit.dropped_passages == 11


def test_passages_that_have_nothing_of_the_question_are_not_kept_unless_none_has() -> None:
    text = "\n\n".join(f"section {number} is about nothing much" for number in range(20))
    fit = passages(paper(text + "\n\npumps fail", "pumps?"), 300, LIMITS)
    assert fit is not None
    assert len(fit.kept_spans) == 1
    vague = passages(paper(text, "tldr?"), 300, LIMITS)
    assert vague is not None
    assert vague.kept_spans[0][0] == 0
    assert len(vague.kept_spans) > 2


def test_a_request_that_stands_in_the_document_itself_is_kept() -> None:
    for text in (
        "Summarize why pumps fail.\n\n" + "weather " * 200,
        "weather " * 200 + "\n\nSummarize why pumps fail.",
    ):
        fit = passages(paper(text), 600, LIMITS)
        assert fit is not None
        assert "Summarize why pumps fail." in "".join(text[first:last] for first, last in fit.kept_spans)


@given(st.text(max_size=3000), st.text(max_size=50), st.integers(1, 2000))
def test_passages_fit_the_budget_whatever_the_text(text: str, question: str, budget: int) -> None:
    size = len(text.encode())
    pieces = (Piece("user", size), Piece("user", len(question.encode())))
    fit = passages(Sketch(pieces, 1.0, Document(0, 0, text, question)), budget, LIMITS)
    if fit is not None:
        assert fit.kept_spans
        assert fit.tokens_after <= budget


def test_map_reduce_reads_all_of_the_document_and_leaves_room_for_every_note() -> None:
    text = "\n\n".join(f"paragraph {number} " * 10 for number in range(20))
    fit = map_reduce(paper(text, "what?"), 1000, ContextLimits(chunk_tokens=600, summary_tokens=100))
    assert fit is not None
    assert "".join(text[first:last] for first, last in fit.chunks) == text
    assert all(last - first <= 600 for first, last in fit.chunks)
    assert fit.reserved == len(fit.chunks) * fit.each
    assert fit.tokens_after <= 1000


def test_map_reduce_does_not_read_more_parts_than_are_allowed() -> None:
    sketch = paper("word " * 2000, "what?")
    assert map_reduce(sketch, 5000, ContextLimits(chunk_tokens=600, max_chunks=17)) is not None
    assert map_reduce(sketch, 5000, ContextLimits(chunk_tokens=600, max_chunks=16)) is None


def test_what_is_decided_holds_nothing_of_the_prompt() -> None:
    secret = "canary " * 500
    for fit in (each(paper(secret, "canary?"), 600, LIMITS) for each in CONDENSING.values()):
        assert "canary" not in repr(fit)
    assert "canary" not in repr(paper(secret, "x").document)


def test_the_answer_keeps_the_room_it_asks_for_up_to_half_of_the_window() -> None:
    assert room(4096, None) == 4096 - 256
    assert room(4096, 1000) == 3096
    assert room(4096, 100_000) == 2048
    assert room(100, None) == 50


@given(st.integers(200, 100_000), st.integers(0, 100), st.integers(10, 50))
def test_a_budget_that_was_too_much_is_tightened_until_it_is_right(limit: int, constant: int, tenths: int) -> None:
    def after(budget: int) -> int:
        return limit * constant // 200 + budget * tenths // 10

    budget = limit
    for _ in range(TRIES):
        if after(budget) <= limit:
            break
        budget = tightened(budget, after(budget), limit)
    assert limit // 20 <= after(budget) <= limit
