"""JSON with bounded gaps."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns its own developers while it loads


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    pytest.importorskip("xgrammar", exc_type=ImportError)  # brings torch, which not every process of tests needs


def matches(schema: str, text: str) -> bool:
    import xgrammar

    from services.local_engine.json_grammar import bounded

    grammar = bounded(schema)
    assert grammar is not None
    tokenizer = xgrammar.TokenizerInfo([chr(code) for code in range(128)] + ["</s>"], stop_token_ids=[128])
    compiled = xgrammar.GrammarCompiler(tokenizer).compile_grammar(grammar)
    matcher = xgrammar.GrammarMatcher(compiled)
    return bool(matcher.accept_string(text)) and bool(matcher.accept_token(128))


SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


@pytest.mark.parametrize("text", ['{"a":1}', '{"a": 1}', '{\n  "a": 1\n}'])
def test_json_may_be_laid_out_as_models_do(text: str) -> None:
    assert matches(SCHEMA, text)


@pytest.mark.parametrize("text", ['{"a": "1"}', "{}", '{"a":' + " " * 9 + "1}"])
def test_what_breaks_the_schema_or_runs_on_in_spaces_is_kept_out(text: str) -> None:
    assert not matches(SCHEMA, text)


def test_what_is_no_schema_has_no_grammar() -> None:
    from services.local_engine.json_grammar import bounded

    assert bounded('{"type": 3}') is None
