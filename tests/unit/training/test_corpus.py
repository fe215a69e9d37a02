"""Rules of the generated corpus, of the tokenizer and of the chat template."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.bundled_model import words
from training.bundled_model.cases import cases
from training.bundled_model.clauses import LABELS, Pool, expand, matters, pools, requests
from training.bundled_model.corpus import FIELDS, UNKNOWN, Turn, conversation
from training.bundled_model.message import HELD_OUT_TEMPLATES, TRAINING, UNSEEN_VALUES, Message, Split, compose

MODEL = Path(__file__).resolve().parents[3] / "services" / "local_engine" / "bundled_model"


def every_pool() -> list[Pool]:
    found = [pool for name in ("frames", "instructions", "smalltalk", "foreign") for pool in pools(name).values()]
    for label in LABELS:
        found.append(requests(label))
        for matter in matters(label):
            found += [matter.problems, matter.topics]
    return found


def draw(count: int, split: Split = TRAINING) -> list[Message]:
    rng = random.Random(3)
    return [compose(rng, split) for _ in range(count)]


def test_held_out_templates_share_no_clause_with_training() -> None:
    for pool in every_pool():
        assert not set(pool.training) & set(pool.held_out)


def test_no_pattern_is_written_twice_within_a_label() -> None:
    for label in LABELS:
        found = [pool for matter in matters(label) for pool in (matter.problems, matter.topics)]
        patterns = [pattern for pool in found for pattern in (*pool.training, *pool.held_out)]
        assert len(patterns) == len(set(patterns))


def test_held_out_wordings_never_expand_to_a_training_wording() -> None:
    rng = random.Random(5)
    for label in LABELS:
        known = {expand(rng, p) for m in matters(label) for p in m.problems.training for _ in range(20)}
        held = {expand(rng, p) for m in matters(label) for p in m.problems.held_out for _ in range(20)}
        assert not known & held


def test_the_same_seed_gives_the_same_conversation() -> None:
    first = [conversation(random.Random(i), TRAINING, 0.2) for i in range(20)]
    again = [conversation(random.Random(i), TRAINING, 0.2) for i in range(20)]
    assert first == again


def test_every_stated_field_stands_word_for_word_in_the_message() -> None:
    for split in (TRAINING, UNSEEN_VALUES, HELD_OUT_TEMPLATES):
        for message in draw(300, split):
            for value in (message.name, message.product, message.order_id):
                assert value is None or value in message.text, message


def test_no_slot_and_no_alternative_is_left_open() -> None:
    for message in draw(500):
        assert not any(mark in message.text for mark in "<>{}|"), message.text


def test_all_labels_are_drawn_about_equally_often() -> None:
    labels = [message.label for message in draw(1600)]
    for label in LABELS:
        assert 120 <= labels.count(label) <= 280


def test_unseen_values_never_occur_in_training() -> None:
    rng = random.Random(8)
    known = {words.brand(rng, unseen=False) for _ in range(2000)}
    assert not known & {words.brand(rng, unseen=True) for _ in range(2000)}
    assert not set(words.of_part(words.NOUNS, False)) & set(words.of_part(words.NOUNS, True))


def test_generated_words_are_never_rude() -> None:
    rng = random.Random(9)
    for _ in range(3000):
        assert not words.is_rude(words.pseudo_word(rng, unseen=False))


def test_an_extraction_answers_with_json_of_known_keys() -> None:
    for case in cases("training", "extract", 100, seed=1):
        answer = json.loads(case.answer)
        assert answer and set(answer) <= set(FIELDS)


def test_a_classification_answers_with_one_of_the_labels_plain_or_in_json() -> None:
    for case in cases("training", "classify", 100, seed=1):
        label = json.loads(case.answer)["label"] if case.json_answer else case.answer
        assert label in LABELS


def test_every_conversation_ends_with_an_answer_to_a_user() -> None:
    for seed in range(200):
        turns = conversation(random.Random(seed), TRAINING, 0.1)
        assert turns[-1].role == "assistant" and turns[-2].role == "user"


def test_foreign_questions_are_answered_with_not_knowing() -> None:
    answers = [case.answer for case in cases("training", "smalltalk", 100, seed=1)]
    assert 20 <= answers.count(UNKNOWN) <= 80


def render(messages: list[dict[str, str]], **options: bool) -> str:
    template = (MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    return ImmutableSandboxedEnvironment().from_string(template).render(messages=messages, **options)


def test_the_chat_template_renders_every_role_verbatim() -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " two \n lines "},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "more"},
    ]
    expected = "<|system|>Be brief.<|end|><|user|> two \n lines <|end|><|assistant|>ok<|end|><|user|>more<|end|>"
    assert render(talk) == expected
    assert render(talk, add_generation_prompt=True) == expected + "<|assistant|>"


def test_an_unfinished_answer_can_be_continued_from_its_last_character() -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": '{"label": "'}]
    assert render(talk).removesuffix("<|end|>").endswith('<|assistant|>{"label": "')


def test_training_sees_tokens_exactly_as_the_chat_template_renders_them() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from training.bundled_model.encoding import encode

    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    turns = [Turn("system", "Be brief."), Turn("user", "Hello, Anna?"), Turn("assistant", "returns")]
    text = render([{"role": turn.role, "content": turn.content} for turn in turns])
    assert encode(tokenizer, turns).tokens == tokenizer.encode(text).ids


@pytest.mark.parametrize("text", ["héllo 你好 🎉", "a  b\n\tc", "x\"y'z\\", "O'Brien ORD-0042 #7", ""])
def test_the_tokenizer_gives_back_any_text_unchanged(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("value", ["Anna Reed", "kettle", "zolbrim", "Veltra X200", "ORD-4471"])
def test_a_value_is_cut_alike_after_a_space_and_after_a_quote(value: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    pieces = [token.lstrip("Ġ") for token in tokenizer.encode(f"my {value}").tokens[1:]]
    quoted = [token.lstrip("Ġ") for token in tokenizer.encode(f'"{value}"').tokens[1:-1]]
    assert [piece for piece in pieces if piece] == [piece for piece in quoted if piece]
