"""OpenAI's own client, unmodified, asks the edge for vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from spillway.errors import ContextLengthExceeded, FieldViolation
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Refuse, Script
from spillway.testing.vectors import vector
from tests.integration.router.http.rig import running_edge
from tests.integration.router.mesh import Mesh


@pytest.fixture
async def embedding() -> AsyncIterator[tuple[Mesh, AsyncOpenAI]]:
    engine = FakeEngine(model="e5", vector=lambda one: vector("e5", one.text or list(one.tokens.ids)))
    async with running_edge(local=engine, capabilities=["embeddings", "token_input"]) as found:
        yield found


async def test_vectors_are_told_in_either_form_and_say_the_same(embedding: tuple[Mesh, AsyncOpenAI]) -> None:
    _, client = embedding
    packed = await client.embeddings.with_raw_response.create(model="local", input=["two words", "one"])
    plain = await client.embeddings.create(model="local", input=["two words", "one"], encoding_format="float")
    answer = packed.parse()
    for text, one, other in zip(["two words", "one"], answer.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(vector("e5", text), abs=1e-6)
        assert other.embedding == pytest.approx(one.embedding, abs=1e-9)
    assert [one.index for one in answer.data] == [0, 1]
    assert (answer.model, answer.object) == ("e5", "list")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    assert packed.headers["x-spillway-target"] == "local"
    assert packed.headers["x-spillway-model"] == "e5"


async def test_one_text_one_list_of_tokens_and_several_are_all_inputs(embedding: tuple[Mesh, AsyncOpenAI]) -> None:
    mesh, client = embedding
    assert len((await client.embeddings.create(model="local", input="hello")).data) == 1
    assert len((await client.embeddings.create(model="local", input=[1, 2, 3])).data) == 1
    assert len((await client.embeddings.create(model="local", input=[[1, 2], [3]], user="me")).data) == 2
    assert [list(one.tokens.ids) for one in mesh.local.embeds[-1].spec.inputs] == [[1, 2], [3]]


async def test_a_hint_keeps_texts_on_the_site(embedding: tuple[Mesh, AsyncOpenAI]) -> None:
    mesh, client = embedding
    hint = {"x-spillway-residency": "local_only"}
    with pytest.raises(openai.BadRequestError, match="data policy"):
        await client.embeddings.create(model="cloud", input="secret", extra_headers=hint)
    assert mesh.cloud.embeds == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", [1.5]]}, "input[1]"),
        ({"input": {}}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "temperature": 1}, "temperature"),
        ({"input": "a", "model": "auto"}, "model"),
    ],
)
async def test_what_is_wrong_is_named_as_openai_names_it(
    embedding: tuple[Mesh, AsyncOpenAI], body: dict[str, object], param: str
) -> None:
    _, client = embedding
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.post("/embeddings", body={"model": "local", **body}, cast_to=object)
    assert refusal.value.param == param


async def test_a_text_that_is_too_long_is_named_by_its_place(embedding: tuple[Mesh, AsyncOpenAI]) -> None:
    mesh, client = embedding
    fields = [FieldViolation("spec.inputs[1].text", "has 900 tokens; the context has 512")]
    mesh.local.faults = Script(Refuse(ContextLengthExceeded("too long", fields=fields)))
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.embeddings.create(model="local", input=["a", "long"])
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "input[1]")
