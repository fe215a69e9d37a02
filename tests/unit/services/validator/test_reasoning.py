from __future__ import annotations

import pytest

from services.validator.reasoning import answer_of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "\nb"),
        ("<Thinking>\na\n</Thinking>\nb", "\n\nb"),
        ("  <think>a</think>b\n<think>c</think>d", "\nb\n\nd"),
        ("[THINK]a[/THINK]b", "\nb"),
        ("\u25c1think\u25b7a\u25c1/think\u25b7b", "\nb"),
        ("<seed:think>a</seed:think>b", "\nb"),
        ("a</think>\nb", "\nb"),
        ("a\n</think>b", "b"),
        ("<think>a", "\n"),
        ("<think><thought>a</thought>b\n</think>c", "c"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("<|channel|>analysis<|message|>a", "\n"),
    ],
)
def test_reasoning_is_no_part_of_the_answer(text: str, said: str) -> None:
    assert answer_of(text) == said


@pytest.mark.parametrize("text", ['It is {"tag": "</think>"} here', 'See {"tag": "<think>a</think>"}', "a <think> b"])
def test_a_mark_inside_a_line_is_part_of_the_answer(text: str) -> None:
    assert answer_of(text) == text
