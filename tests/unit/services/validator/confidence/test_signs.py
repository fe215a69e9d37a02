"""What is read from an answer: probabilities of content, agreement, refusals."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.confidence.agreement import agreement
from services.validator.confidence.content import content
from services.validator.confidence.probability import certainty
from services.validator.confidence.question import Question, Sample, Token, property_names
from services.validator.confidence.refusal import refuses

LOGPROBS = st.floats(-50, 0)


def carried(*texts: str, names: frozenset[str] = frozenset()) -> list[str]:
    answer = Sample("".join(texts), tuple(Token(text, -1.0) for text in texts))
    return [token.text for token in content(Question(answer, kind="json" if names else "text", names=names))]


def test_all_but_white_space_is_content() -> None:
    assert carried("It", " is", " ", "42", ",", "\n", "<|end|>") == ["It", " is", "42", ",", "<|end|>"]


def test_the_names_that_a_schema_fixes_are_no_content() -> None:
    tokens = ('{"', "lab", "el", '": "', "bill", 'ing"', ", ", '"n', '": ', "1", "}")
    assert carried(*tokens, names=frozenset({"label", "n"})) == [
        '{"',
        '": "',
        "bill",
        'ing"',
        ", ",
        '"n',
        '": ',
        "1",
        "}",
    ]
    assert "lab" in carried(*tokens, names=frozenset({"n"}))


def test_what_looks_like_a_name_inside_a_value_is_content() -> None:
    tokens = ('{"', "a", '": "', "{\\", '"', "a", "\\", '": 1}', '"}')
    assert carried(*tokens, names=frozenset({"a"})).count("a") == 1


def test_json_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    assert carried('{"', "a", '": "', "some", " a", names=frozenset({"a"})) == ['{"', '": "', "some", " a"]


def test_an_answer_without_content_is_all_content() -> None:
    assert carried(" ", "\n") == [" ", "\n"]


def test_the_names_that_a_schema_fixes_are_found_at_any_depth() -> None:
    inner = {"type": "array", "items": {"properties": {"b": {}}}}
    assert property_names(json.dumps({"properties": {"a": inner}, "$defs": {"x": {"properties": {"c": True}}}})) == {
        "a",
        "b",
        "c",
    }


@given(st.lists(LOGPROBS, min_size=1, max_size=20))
def test_the_least_probable_token_is_below_the_mean(logprobs: list[float]) -> None:
    found = certainty([Token("x", logprob) for logprob in logprobs])
    assert found is not None
    assert found.least <= found.mean + 1e-9
    assert found.mean <= 0


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(0, 11))
def test_entropy_from_part_of_a_distribution_is_never_more_than_its_entropy(shares: list[float], told: int) -> None:
    total = math.fsum(shares)
    logprobs = sorted((math.log(share / total) for share in shares), reverse=True)
    entropy = -math.fsum(math.exp(logprob) * logprob for logprob in logprobs)
    found = certainty([Token("x", logprobs[0], tuple(logprobs[1 : 1 + told]))])
    assert found is not None
    assert found.entropy <= entropy + 1e-9
    if told >= len(shares) - 1:
        assert found.entropy == pytest.approx(entropy)


def test_no_tokens_say_nothing() -> None:
    assert certainty([]) is None


@pytest.mark.parametrize("logprob", [-math.inf, -9999.0])
def test_a_probability_of_zero_is_very_small_and_no_more(logprob: float) -> None:
    found = certainty([Token("x", logprob), Token("y", 0.0)])
    assert found is not None
    assert (found.mean, found.least) == (-50, -100)


@pytest.mark.parametrize(
    ("answer", "other", "share"),
    [
        ('{"a": 1, "b": [true]}', '```json\n{"b": [true], "a": 1.0}\n```', 1.0),
        ('{"a": 1}', '{"a": "1"}', 0.0),
        ('{"a": 1}', '{"a": true}', 0.0),
        ("no JSON", "no JSON", 0.0),
    ],
)
def test_json_agrees_by_value(answer: str, other: str, share: float) -> None:
    assert agreement(answer, [other], "json") == share


@pytest.mark.parametrize(
    ("answer", "other", "same"),
    [
        ("Billing.", " billing", True),
        ("billing", "shipping", False),
        ("3.14", "314", False),
        ("-5", "5", False),
        ("", "  ", True),
        ("cafe\u0301", "CAF\u00c9", True),
    ],
)
def test_short_answers_agree_by_their_words(answer: str, other: str, same: bool) -> None:
    assert agreement(answer, [other], "text") == float(same)


def test_prose_agrees_by_the_words_it_shares() -> None:
    answer = "the customer asks for a refund of the whole order today"
    found = agreement(answer, [answer, answer.replace("refund", "copy"), "something else altogether"], "text")
    assert found == pytest.approx((1 + 10 / 11 + 0) / 3)


def test_without_other_samples_agreement_is_unknown() -> None:
    assert agreement("x", [], "text") is None


@given(st.text(max_size=60), st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_agreement_is_a_share_and_an_answer_agrees_with_itself(answer: str, others: list[str]) -> None:
    found = agreement(answer, others, "text")
    assert found is not None
    assert 0 <= found <= 1
    assert agreement(answer, [answer], "text") == pytest.approx(1)


REFUSALS = [
    "I do not know.",
    "I don't know the answer to that.",
    "**I\u2019m sorry, but I can't help with that.**",
    "As an AI language model, I cannot provide medical advice.",
    "Unfortunately, I don't have enough information to answer.",
    "I'm sorry. I don't have access to real-time data.",
    "I am not sure.",
    "There is not enough information to say.",
    "Je ne sais pas.",
    "Désolé, mais je ne peux pas répondre à cette question.",
    "Malheureusement, je n'ai pas d'informations à ce sujet.",
    "Das weiß ich leider nicht.",
    "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
    "Leider kann ich diese Frage nicht beantworten.",
    "Lo siento, pero no puedo ayudar con eso.",
    "No lo sé.",
    "No tengo información sobre eso.",
    "Mi dispiace, non posso aiutare.",
    "Não sei.",
]
ANSWERS = [
    "billing",
    '{"label": "returns"}',
    "I'm sorry to hear that your order is late. We will send another one.",
    "I know.",
    "I don't know what to do with my order, please help me.",
    "I cannot log in to my account since Monday.",
    "I could not open the box.",
    "I can't wait to see you!",
    "The customer says that they do not know the order number.",
    "Je ne sais quoi is a French expression.",
    "No puedo entrar en mi cuenta desde ayer.",
    "Ich kann nicht glauben, wie gut das schmeckt.",
    "Paris. I don't know of any other city by that name.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    assert not refuses(text)


def test_only_the_beginning_of_an_answer_can_refuse() -> None:
    assert not refuses("Paris is the capital. It lies on the Seine. I do not know.")


@given(st.text(max_size=300))
def test_whatever_an_answer_is_it_can_be_read(text: str) -> None:
    refuses(text)
    carried(text, text[::-1], names=frozenset({text[:3]}))
    agreement(text, [text], "json")
