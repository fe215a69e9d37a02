"""The contract's sampling, stops and constraints as vLLM's parameters."""

from __future__ import annotations

from typing import Any

import pytest

from services.local_engine.decoding import Decoding, Guide, decoding, guide, refused
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SchemaInvalid


def decoded(spec: v1.GenerationSpec, **options: Any) -> Decoding:
    return decoding(spec, **{"room": 100, "max_tokens": None, "defaults": {}, **options})


def test_what_the_caller_leaves_out_is_left_to_the_model() -> None:
    assert decoded(v1.GenerationSpec()).arguments == {"max_tokens": 100}
    assert decoded(v1.GenerationSpec(), defaults={"temperature": 0.0, "top_k": 3}).arguments == {
        "temperature": 0.0,
        "top_k": 3,
        "max_tokens": 100,
    }


def test_every_sampling_parameter_of_the_contract_reaches_the_engine() -> None:
    sampling = v1.Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        presence_penalty=1.5,
        frequency_penalty=-1.5,
        repetition_penalty=1.25,
        seed=-3,
        max_tokens=40,
        min_tokens=2,
        n=3,
        logit_bias={5: -100.0},
    )
    assert {field.name for field, _ in sampling.ListFields()} == {field.name for field in v1.Sampling.DESCRIPTOR.fields}
    assert decoded(v1.GenerationSpec(sampling=sampling)).arguments == {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.25,
        "seed": -3,
        "max_tokens": 40,
        "min_tokens": 2,
        "n": 3,
        "logit_bias": {5: -100.0},
    }


def test_a_zero_that_was_sent_is_not_taken_for_absent() -> None:
    spec = v1.GenerationSpec(sampling=v1.Sampling(temperature=0, seed=0))
    assert decoded(spec, defaults={"temperature": 0.8}).arguments == {"temperature": 0.0, "seed": 0, "max_tokens": 100}


def test_stops_reach_the_engine() -> None:
    spec = v1.GenerationSpec(stop=v1.Stop(strings=["\n"], token_ids=[2], include_stop=True, ignore_eos=True))
    assert decoded(spec).arguments == {
        "max_tokens": 100,
        "stop": ["\n"],
        "stop_token_ids": [2],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
    }


def test_tokens_that_end_a_middle_are_stops_that_ignore_eos_ignores() -> None:
    free, stopped = v1.GenerationSpec(), v1.GenerationSpec(stop=v1.Stop(token_ids=[2]))
    assert decoded(free, ends={9, 8}).arguments["stop_token_ids"] == [8, 9]
    assert decoded(stopped, ends={9, 8}).arguments["stop_token_ids"] == [2, 8, 9]
    stopped.stop.ignore_eos = True
    assert decoded(stopped, ends={9, 8}).arguments["stop_token_ids"] == [2]


@pytest.mark.parametrize(
    ("asked", "setting", "model", "given"),
    [(7, 9, 11, 7), (None, 9, 11, 9), (None, None, 11, 11), (None, None, None, 100), (500, None, None, 100)],
)
def test_an_answer_has_the_tokens_asked_for_and_never_more_than_the_context_leaves(
    asked: int | None, setting: int | None, model: int | None, given: int
) -> None:
    spec = v1.GenerationSpec(sampling=v1.Sampling(max_tokens=asked))
    defaults = {} if model is None else {"max_tokens": model}
    assert decoded(spec, max_tokens=setting, defaults=defaults).arguments["max_tokens"] == given


def test_no_logprobs_are_computed_unless_asked_for() -> None:
    assert "logprobs" not in decoded(v1.GenerationSpec()).arguments
    assert decoded(v1.GenerationSpec(logprobs=v1.Logprobs())).arguments["logprobs"] == 0
    assert decoded(v1.GenerationSpec(logprobs=v1.Logprobs(top=3))).arguments["logprobs"] == 3
    assert "prompt_logprobs" not in decoded(v1.GenerationSpec(logprobs=v1.Logprobs())).arguments
    assert decoded(v1.GenerationSpec(logprobs=v1.Logprobs(prompt=0))).arguments["prompt_logprobs"] == 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (v1.GenerationSpec(sampling=v1.Sampling(n=2, temperature=0)), "spec.sampling.n"),
        (v1.GenerationSpec(sampling=v1.Sampling(min_tokens=101)), "spec.sampling.min_tokens"),
        (v1.GenerationSpec(constraint=v1.OutputConstraint(grammar=" ")), "spec.constraint.grammar"),
        (v1.GenerationSpec(constraint=v1.OutputConstraint(json_object=False)), "spec.constraint.json_object"),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_field(spec: v1.GenerationSpec, field: str) -> None:
    with pytest.raises(RequestInvalid) as refusal:
        decoded(spec)
    assert [violation.field for violation in refusal.value.fields] == [field]


def test_extra_takes_known_names_of_the_right_type_alone() -> None:
    spec = v1.GenerationSpec()
    spec.extra.update({"bad_words": ["no"], "allowed_token_ids": [1, 2], "skip_special_tokens": False})
    assert decoded(spec).arguments == {
        "max_tokens": 100,
        "bad_words": ["no"],
        "allowed_token_ids": [1, 2],
        "skip_special_tokens": False,
    }
    spec = v1.GenerationSpec()
    spec.extra.update({"temprature": 1})
    with pytest.raises(ConstraintUnsupported, match=r"spec\.extra\.temprature"):
        decoded(spec)
    for name, wrong in (("bad_words", "no"), ("allowed_token_ids", [1.5]), ("skip_special_tokens", 1)):
        spec = v1.GenerationSpec()
        spec.extra.update({name: wrong})
        with pytest.raises(RequestInvalid, match=rf"spec\.extra\.{name}"):
            decoded(spec)


@pytest.mark.parametrize(
    ("constraint", "kind", "value"),
    [
        (v1.OutputConstraint(json_schema='{"type": "object"}'), "json", '{"type": "object"}'),
        (v1.OutputConstraint(json_schema=" true"), "json", "{}"),
        (v1.OutputConstraint(regex="a+"), "regex", "a+"),
        (v1.OutputConstraint(grammar='root ::= "a"'), "grammar", 'root ::= "a"'),
        (v1.OutputConstraint(choices=v1.Choices(values=["a", "b"])), "choice", ["a", "b"]),
        (v1.OutputConstraint(json_object=True), "json_object", True),
    ],
)
def test_a_constraint_guides_the_decoder(constraint: v1.OutputConstraint, kind: str, value: object) -> None:
    found = guide(v1.GenerationSpec(constraint=constraint))
    assert found is not None
    assert (found.kind, found.value) == (kind, value)
    assert found.field == f"spec.constraint.{constraint.WhichOneof('constraint')}"


def test_an_answer_that_is_only_checked_is_decoded_freely() -> None:
    constraint = v1.OutputConstraint(regex="a+", enforcement=v1.ENFORCEMENT_CHECKED)
    assert guide(v1.GenerationSpec(constraint=constraint)) is None
    constraint.enforcement = v1.ENFORCEMENT_GUIDED
    assert guide(v1.GenerationSpec(constraint=constraint)) is not None


def test_a_refusal_of_the_engine_names_the_field_it_is_about() -> None:
    free, schema = Decoding({}, None), Decoding({}, Guide("json", "{}", "spec.constraint.json_schema"))
    assert refused("logit_bias", "out of vocabulary", schema).fields[0].field == "spec.sampling.logit_bias"
    assert isinstance(refused(None, "not a schema", schema), SchemaInvalid)
    assert isinstance(refused(None, "a keyword it does not know", schema, sound=True), ConstraintUnsupported)
    assert isinstance(refused(None, "no", Decoding({}, Guide("regex", "(", "spec.constraint.regex"))), RequestInvalid)
    assert refused(None, "no", free).fields[0].field == "spec"


def test_several_calls_or_one_is_no_business_of_the_sampler() -> None:
    spec = v1.GenerationSpec()
    spec.extra["parallel_tool_calls"] = False
    assert "parallel_tool_calls" not in decoding(spec, room=9, max_tokens=None, defaults={}).arguments
    spec.extra["parallel_tool_calls"] = "no"
    with pytest.raises(RequestInvalid, match=r"spec\.extra\.parallel_tool_calls"):
        decoding(spec, room=9, max_tokens=None, defaults={})
