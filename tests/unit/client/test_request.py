from __future__ import annotations

import json
from typing import Any

import pytest

from spillway import v1
from spillway.client.request import build_policy, build_spec, deadline_s
from spillway.errors import RequestInvalid


def test_a_text_is_one_user_message() -> None:
    assert build_spec("Hi", {}) == v1.GenerationSpec(
        chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="Hi")])])
    )


def test_a_conversation_keeps_its_order_and_the_system_text_comes_first() -> None:
    spec = build_spec(
        [
            {"role": "user", "content": "a"},
            v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text="b")]),
            {"role": "user", "content": "c"},
        ],
        {"system": "s"},
    )
    assert [(message.role, message.parts[0].text) for message in spec.chat.messages] == [
        (v1.ROLE_SYSTEM, "s"),
        (v1.ROLE_USER, "a"),
        (v1.ROLE_ASSISTANT, "b"),
        (v1.ROLE_USER, "c"),
    ]


def test_a_spec_is_copied_and_options_are_laid_over_it() -> None:
    given = v1.GenerationSpec(text=v1.TextPrompt(text="Hi"), sampling=v1.Sampling(temperature=0))
    built = build_spec(given, {"max_tokens": 3})
    assert built.text.text == "Hi"
    assert built.sampling == v1.Sampling(temperature=0, max_tokens=3)
    assert not given.sampling.HasField("max_tokens")


def test_what_is_left_out_stays_absent_and_zero_does_not() -> None:
    spec = build_spec("Hi", {"temperature": 0.0, "seed": 0})
    assert spec.sampling == v1.Sampling(temperature=0, seed=0)
    assert not build_spec("Hi", {}).HasField("sampling")
    assert build_policy({}) == v1.RoutingPolicy()


@pytest.mark.parametrize(
    ("options", "constraint"),
    [
        ({"json_schema": {"type": "object"}}, v1.OutputConstraint(json_schema='{"type": "object"}')),
        (
            {"json_schema": {"$ref": "urn:a"}, "schemas": {"urn:a": {"type": "null"}, "urn:b": "true"}},
            v1.OutputConstraint(
                json_schema='{"$ref": "urn:a"}', schemas={"urn:a": '{"type": "null"}', "urn:b": "true"}
            ),
        ),
        ({"json_schema": '{"type":"object"}'}, v1.OutputConstraint(json_schema='{"type":"object"}')),
        ({"regex": "a+"}, v1.OutputConstraint(regex="a+")),
        ({"choices": ["a", "b"]}, v1.OutputConstraint(choices=v1.Choices(values=["a", "b"]))),
        ({"json_object": True}, v1.OutputConstraint(json_object=True)),
        (
            {"json_object": True, "enforcement": "checked"},
            v1.OutputConstraint(json_object=True, enforcement=v1.ENFORCEMENT_CHECKED),
        ),
    ],
)
def test_constraints_become_those_of_the_contract(options: Any, constraint: v1.OutputConstraint) -> None:
    assert build_spec("Hi", options).constraint == constraint


def test_other_options_find_their_fields() -> None:
    spec = build_spec(
        "Hi",
        {
            "stop": "END",
            "model": "local",
            "logprobs": 0,
            "prompt_logprobs": 2,
            "coalescing_ms": 0,
            "priority": "background",
            "reasoning_effort": "low",
            "prompt_cache_key": "support",
            "prompt_cache_ttl_s": 3600,
            "extra": {"a": 1},
        },
    )
    assert list(spec.stop.strings) == ["END"]
    assert spec.model == "local"
    assert spec.logprobs == v1.Logprobs(top=0, prompt=2)
    assert spec.coalescing.HasField("window_ms")
    assert spec.priority == v1.PRIORITY_BACKGROUND
    assert spec.reasoning_effort == v1.REASONING_EFFORT_LOW
    assert spec.prompt_cache == v1.PromptCache(key="support", ttl_s=3600)
    assert json.loads(json.dumps(dict(spec.extra))) == {"a": 1}


def test_an_answer_in_json_may_be_kept_from_being_mended() -> None:
    spec = build_spec("hi", {"json_object": True, "repair": "forbidden"})
    assert spec.constraint == v1.OutputConstraint(json_object=True, repair=v1.REPAIR_FORBIDDEN)


def test_policy_options_find_their_fields() -> None:
    policy = build_policy(
        {
            "category": "complex",
            "task": "extract",
            "local_only": True,
            "sensitivity": "confidential",
            "max_retention_days": 30,
            "delivery": "probed",
            "probe_tokens": 4,
            "validation": "required",
            "cache": "refresh",
            "context_policy": "slide",
            "inspect_input": True,
            "judgements": ["brief"],
            "redact": True,
            "failover": "off",
            "max_cost_usd": 0.01,
            "labels": ["x"],
        }
    )
    assert policy == v1.RoutingPolicy(
        category=v1.CATEGORY_COMPLEX,
        task=v1.TASK_EXTRACT,
        labels=["x"],
        data_policy=v1.DataPolicy(
            residency=v1.RESIDENCY_LOCAL_ONLY, sensitivity=v1.SENSITIVITY_CONFIDENTIAL, max_retention_days=30
        ),
        max_cost_nano_usd=10_000_000,
        failover=v1.FAILOVER_OFF,
        delivery=v1.Delivery(mode=v1.DELIVERY_MODE_PROBED, probe_tokens=4),
        validation=v1.VALIDATION_REQUIRED,
        cache=v1.CACHE_MODE_REFRESH,
        context_policy=v1.CONTEXT_POLICY_SLIDE,
        inspect_input=True,
        judgements=["brief"],
        redact=True,
    )


def test_local_only_is_never_loosened_by_another_option() -> None:
    assert build_policy({"local_only": True, "residency": "any"}).data_policy.residency == v1.RESIDENCY_LOCAL_ONLY


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"category": "komplex"}, "category", "did you mean 'complex'?"),
        ({"task": 99}, "task", "is not one of chat, classify"),
        ({"delivery": ""}, "delivery", "is not one of live, probed, committed"),
        ({"choices": "abc"}, "choices", "is a list of texts"),
        ({"max_tokens": "many"}, "max_tokens", "does not fit"),
        ({"max_tokens": 2**40}, "max_tokens", "does not fit"),
        ({"regex": "a", "choices": ["a"]}, "choices", "cannot go together with regex"),
        ({"enforcement": "guided"}, "enforcement", "needs a constraint"),
        ({"repair": "forbidden"}, "repair", "needs a constraint"),
        ({"json_object": True, "repair": "never"}, "repair", "is not one of allowed, forbidden"),
        ({"judgements": "brief"}, "judgements", "is a list of texts"),
        ({"deadline_s": 0}, "deadline_s", "above 0"),
        ({"deadline_s": float("nan")}, "deadline_s", "above 0"),
        ({"max_cost_usd": -1}, "max_cost_usd", "0 or more"),
        ({"extra": {"a": object()}}, "extra", "not a JSON object"),
    ],
)
def test_a_wrong_value_is_refused_before_the_call_naming_its_option(options: Any, field: str, said: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        build_spec("Hi", options)
        build_policy(options)
        deadline_s(options)
    assert caught.value.fields[0].field == field
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (7, "prompt"),
        ([{"role": "boss", "content": "x"}], "prompt[0].role"),
        ([{"role": "user", "content": None}], "prompt[0].content"),
        ([{"role": "user"}], "prompt[0]"),
    ],
)
def test_a_wrong_prompt_is_refused_naming_its_place(prompt: Any, field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        build_spec(prompt, {})
    assert caught.value.fields[0].field == field


def test_a_misspelt_option_is_a_type_error_with_the_right_name() -> None:
    options: Any = {"max_token": 3}
    with pytest.raises(TypeError, match="unknown option 'max_token'; did you mean 'max_tokens'"):
        build_spec("Hi", options)
