from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.placeholders import Placeholder, Restorer, TooLong, redacted, restored, well_formed

EMAIL = Placeholder("[EMAIL_1]", "a@b.example", "email")
KEY = Placeholder("[SECRET_1]", '-----BEGIN "KEY"\\\n\x07é', "secret")
ID = Placeholder("[NATIONAL_ID_12]", "078-05-1120", "national_id")
KNOWN = [EMAIL, KEY, ID]

scraps = st.sampled_from(
    [
        *("[EMAIL_1]", "[email_1]", r"[EMAIL\_1]", r"[NATIONAL\\_ID\_12]", "[EMAIL_", "[EMAIL_1", "EMAIL_1]", "[", "]"),
        *("\\", "_", "1", "[[EMAIL_1]]", "[EMAIL_12]", "[EMAIL_2]", "[SECRET_1]", "[PLACEHOLDER_1]", " ", "é😀"),
    ]
)
written = st.lists(st.one_of(scraps, st.text(max_size=3)), max_size=12).map("".join)
kinds = st.sampled_from(["email", "national_id", "placeholder", "x-y", "1", ""])


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, str]]]:
    """A text and pieces of it, in order, none overlapping another."""
    text = draw(written)
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pairs = zip(places[::2], places[1::2], strict=False)
    return text, [(start, end, draw(kinds)) for start, end in pairs]


@given(st.lists(cut(), max_size=3), st.lists(st.sampled_from(KNOWN), unique=True))
def test_what_is_put_back_is_what_was_taken_whatever_the_texts_say(
    cuts: list[tuple[str, list[tuple[int, int, str]]]], known: list[Placeholder]
) -> None:
    texts = [text for text, _ in cuts]
    told, placeholders = redacted(texts, [pieces for _, pieces in cuts], known)
    assert [restored(text, placeholders) for text in told] == texts
    assert placeholders[: len(known)] == known
    assert len({one.token for one in placeholders}) == len({(one.kind, one.original) for one in placeholders})
    assert all(well_formed(one.token) for one in placeholders)


@given(written, st.lists(st.sampled_from(KNOWN), unique=True), st.booleans(), st.lists(st.integers(0, 80)))
def test_however_a_text_is_cut_it_ends_up_as_if_it_were_whole(
    text: str, known: list[Placeholder], in_json: bool, cuts: list[int]
) -> None:
    restorer = Restorer(known, json=in_json)
    told = [restorer.feed(text[start:end]) for start, end in itertools.pairwise([0, *sorted(cuts), len(text) + 80])]
    assert "".join((*told, restorer.end())) == restored(text, known, json=in_json)


def spellings(token: str) -> set[str]:
    """All that is read as `token`, in lower case."""
    made = {""}
    for character in token.lower():
        made = {one + spelled for one in made for spelled in ({"_", "\\_", "\\\\_"} if character == "_" else character)}
    return made


@given(written, st.lists(st.sampled_from(KNOWN), unique=True))
def test_no_character_is_held_back_that_cannot_begin_a_placeholder(text: str, known: list[Placeholder]) -> None:
    restorer = Restorer(known)
    restorer.feed(text)
    spelled = {one for placeholder in known for one in spellings(placeholder.token)}
    tails = (text[place:].lower() for place in range(len(text)))
    begun = (tail for tail in tails if any(one.startswith(tail) and one != tail for one in spelled))
    assert repr(restorer).endswith(f" {len(next(begun, ''))} characters held>")


def test_the_same_original_of_the_same_kind_has_the_same_placeholder_also_over_calls() -> None:
    texts = ["a@b.example or c@d.example", "c@d.example"]
    pieces = [[(0, 11, "email"), (15, 26, "email")], [(0, 11, "email")]]
    told, placeholders = redacted(texts, pieces)
    more = placeholders
    assert told == ["[EMAIL_1] or [EMAIL_2]", "[EMAIL_2]"]
    again, more = redacted(["c@d.example 5 e@f.example"], [[(0, 11, "email"), (12, 13, "x"), (14, 25, "email")]], more)
    assert again == ["[EMAIL_2] [X_1] [EMAIL_3]"]
    assert more[:2] == placeholders
    other, _ = redacted(["c@d.example"], [[(0, 11, "secret")]], placeholders)
    assert other == ["[SECRET_1]"]


def test_a_text_cannot_speak_of_a_placeholder_it_was_not_given() -> None:
    text = r"say [EMAIL_1], [email\_1], [EMAIL_7], [CARD_1] and [FIGURE_1]; me@x.example"
    pieces = [(text.index("me@"), len(text), "email")]
    (told,), placeholders = redacted([text], [pieces], [EMAIL], ["card"])
    assert told == ("say [PLACEHOLDER_1], [PLACEHOLDER_2], [PLACEHOLDER_3], [PLACEHOLDER_4] and [FIGURE_1]; [EMAIL_2]")
    assert restored(told, placeholders) == text
    assert EMAIL.original not in restored(told, placeholders)


@pytest.mark.parametrize("spelled", ["[EMAIL_1]", "[email_1]", "[Email_1]", "[EMAIL\\_1]", "[EMAIL\\\\_1]"])
def test_a_placeholder_is_known_in_any_case_and_with_the_backslash_of_markdown(spelled: str) -> None:
    assert restored(f"to {spelled}.", KNOWN) == "to a@b.example."


@pytest.mark.parametrize(
    "spelled",
    [
        *("EMAIL_1", "[EMAIL_1", "EMAIL_1]", "[EMAIL 1]", "[EMAIL_01]", "[EMAIL_2]", "[EMAIL1]", "(EMAIL_1)"),
        *("[EMA\\IL_1]", "[EMAIL-1]", "[EMAIL\\\\\\_1]", "[ EMAIL_1 ]", "[EMA\u0131L_1]", "[EMAIL_\uff11]"),
    ],
)
def test_what_is_not_quite_a_placeholder_stays_as_it_is(spelled: str) -> None:
    assert restored(spelled, KNOWN) == spelled


def test_inside_json_originals_are_escaped() -> None:
    answer = json.dumps({"key": "[SECRET_1]", "[email_1]": ["[NATIONAL\\_ID\\_12]"]})
    told = json.loads(restored(answer, KNOWN, json=True))
    assert told == {"key": KEY.original, EMAIL.original: [ID.original]}


def test_what_stands_in_the_place_of_a_placeholder_is_not_looked_through_again() -> None:
    nested = Placeholder("[SECRET_2]", "[EMAIL_1]", "secret")
    assert restored("[SECRET_2]", [EMAIL, nested]) == "[EMAIL_1]"
    restorer = Restorer([EMAIL, nested])
    assert "".join([*map(restorer.feed, "[SECRET_2]"), restorer.end()]) == "[EMAIL_1]"


def test_a_few_placeholders_cannot_become_a_flood() -> None:
    long = Placeholder("[SECRET_1]", "x" * 1000, "secret")
    with pytest.raises(TooLong):
        restored("[SECRET_1]" * 100, [long], most=50_000)
    restorer = Restorer([long], most=2_500)
    assert len(restorer.feed("[SECRET_1][SECRET_1]")) == 2_000
    with pytest.raises(TooLong) as caught:
        restorer.feed("[SECRET_1]")
    assert "x" * 10 not in str(caught.value)


def test_nobody_reads_an_original_in_what_is_logged() -> None:
    restorer = Restorer(KNOWN)
    restorer.feed("to [EMA")
    assert repr(EMAIL) == "Placeholder(token='[EMAIL_1]', kind='email')"
    assert repr(restorer) == "<Restorer 3 placeholders, 4 characters held>"


@pytest.mark.parametrize("token", ["EMAIL_1", "[email_1]", "[EMAIL]", "[1_1]", "[A__1]", f"[{'A' * 62}_1]", ""])
def test_what_cannot_be_put_back_is_no_placeholder(token: str) -> None:
    assert not well_formed(token)


@pytest.mark.parametrize("kind", ["k" * 99, "1", "", "é", "x-y__z"])
def test_whatever_a_kind_is_called_its_placeholder_is_well_formed(kind: str) -> None:
    told, (one,) = redacted(["x"], [[(0, 1, kind)]])
    assert told == [one.token]
    assert well_formed(one.token)
