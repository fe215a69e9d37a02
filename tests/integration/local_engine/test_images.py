"""Images on the real vLLM: a model of random weights that reads them, with an engine of its own."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError

from services.router.app import build as build_router
from services.router.http.settings import HttpSettings
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import ConstraintUnsupported, ContextLengthExceeded, RequestInvalid
from spillway.generation import fold
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc
from tests.integration.local_engine import vision_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

START_S = 300.0
CONTEXT = 512
PER_PROMPT = 3
MAX_PIXELS = 10_000
TOKENS = 12
RED, BLUE = (220, 20, 20), (10, 30, 200)


def png(color: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    from PIL import Image

    with BytesIO() as file:
        Image.new("RGB", size, color).save(file, "PNG")
        return file.getvalue()


def shown(data: bytes) -> v1.Part:
    return v1.Part(image=v1.Image(data=data, mime_type="image/png"))


def asked(*parts: v1.Part | str, **fields: Any) -> v1.GenerationSpec:
    told = [v1.Part(text=part) if isinstance(part, str) else part for part in parts]
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=told)])
    sampling = v1.Sampling(temperature=0, max_tokens=TOKENS)
    return v1.GenerationSpec(chat=chat, **{"sampling": sampling, "stop": v1.Stop(ignore_eos=True), **fields})


@dataclass
class Engine:
    """Calls the engine."""

    remote: Remote
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)

    async def answer(self, spec: v1.GenerationSpec) -> v1.GenerateResponse:
        return await self._ask(self.stub.Generate, v1.GenerateRequest(spec=spec))  # type: ignore[no-any-return]

    async def says(self, *parts: v1.Part | str) -> list[tuple[int, float]]:
        """Return the tokens of an answer, each with its log probability."""
        content = (await self.answer(asked(*parts, logprobs=v1.Logprobs()))).choices[0].content
        return [
            (token, round(told.logprob, 3)) for token, told in zip(content.token_ids, content.logprobs, strict=True)
        ]

    async def streamed(self, spec: v1.GenerationSpec) -> v1.GenerateResponse:
        async def events() -> AsyncIterator[v1.GenerationEvent]:
            request = v1.StreamGenerateRequest(spec=spec)
            async with self.remote.stream(self.stub.StreamGenerate, request, call(), span_name="test") as responses:
                async for response in responses:
                    yield response.event

        return await fold(events())

    async def count(self, spec: v1.GenerationSpec) -> v1.CountTokensResponse:
        return await self._ask(self.stub.CountTokens, v1.CountTokensRequest(spec=spec))  # type: ignore[no-any-return]

    async def capabilities(self) -> list[int]:
        (model,) = (await self._ask(self.stub.ListModels, v1.ListModelsRequest())).models
        return list(model.capabilities)

    async def _ask(self, rpc: Any, request: Any) -> Any:
        return await self.remote.unary(rpc, request, call(), span_name="test")


def call() -> Call:
    return Call("test", Deadline.after(60.0))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    from services.local_engine.app import build
    from services.local_engine.settings import CpuSettings, ImageSettings, LocalEngineSettings, VllmSettings

    folder: Path = await asyncio.to_thread(vision_model.write, tmp_path_factory.mktemp("models") / "eyes")
    settings = LocalEngineSettings(
        server=LOOPBACK,
        model=str(folder),
        vllm=VllmSettings(
            max_model_len=CONTEXT,
            max_num_seqs=8,
            dtype="float32",
            cpu=CpuSettings(kv_cache_gib=0.25),
            images=ImageSettings(per_prompt=PER_PROMPT, max_pixels=MAX_PIXELS, cache_gib=0.1),
        ),
    )
    async with build(settings) as app:
        async with asyncio.timeout(START_S):
            await app.starting
        remote = Remote(app.server.address, tracing=Tracing("test"))
        yield Engine(remote)
        await remote.close()


async def test_a_model_that_reads_images_says_so(engine: Engine) -> None:
    assert v1.CAPABILITY_IMAGES in await engine.capabilities()


async def test_an_answer_depends_on_the_image_on_its_place_and_on_nothing_else(engine: Engine) -> None:
    red, blue = shown(png(RED)), shown(png(BLUE))
    first, again = [await engine.answer(asked(red, "What is this?")) for _ in range(2)]
    assert first.choices[0].content.token_ids == again.choices[0].content.token_ids
    told = [
        await engine.says("What is this?"),
        await engine.says(red, "What is this?"),
        await engine.says(blue, "What is this?"),
        await engine.says("What is this?", blue),
        await engine.says(red, blue, "What is this?"),
        await engine.says(blue, red, "What is this?"),
    ]
    assert len({tuple(ids) for ids in told}) == len(told)


async def test_prompts_with_other_images_share_no_prefix_and_with_the_same_they_do(engine: Engine) -> None:
    cached = []
    for color in ((1, 2, 3), (3, 2, 1), (1, 2, 3)):
        spec = asked("Look at these: ", *(shown(png(color)) for _ in range(PER_PROMPT)), "What are they?")
        cached.append((await engine.answer(spec)).usage.cached_prompt_tokens)
    assert cached[0] == cached[1] == 0 < cached[2]


@pytest.mark.parametrize("sizes", [[(64, 64)], [(300, 33)], [(8, 90), (64, 64)]], ids=str)
async def test_tokens_are_counted_as_the_context_is_filled(engine: Engine, sizes: list[tuple[int, int]]) -> None:
    spec = asked(*(shown(png(RED, size)) for size in sizes), "What is this?")
    count, usage = await engine.count(spec), (await engine.answer(spec)).usage
    assert count.exact
    assert count.tokens == usage.prompt_tokens > 20 * len(sizes)


async def test_a_stream_tells_what_the_whole_answer_tells(engine: Engine) -> None:
    spec = asked(shown(png(BLUE)), "What is this?")
    whole, streamed = await engine.answer(spec), await engine.streamed(spec)
    assert streamed.choices[0].content.token_ids == whole.choices[0].content.token_ids
    assert streamed.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_an_answer_to_an_image_goes_on_exactly_where_it_was_cut(engine: Engine) -> None:
    spec = asked("Look: ", shown(png(RED)), shown(png(BLUE, (30, 90))))
    ids = list((await engine.answer(spec)).choices[0].content.token_ids)
    cut = asked("Look: ", shown(png(RED)), shown(png(BLUE, (30, 90))), continuation=v1.Continuation(token_ids=ids[:5]))
    rest = await engine.answer(cut)
    assert ids[:5] + list(rest.choices[0].content.token_ids) == ids
    assert rest.usage.prompt_tokens == (await engine.count(spec)).tokens


async def test_an_answer_to_an_image_may_have_a_form(engine: Engine) -> None:
    choices = v1.OutputConstraint(choices=v1.Choices(values=["a cat", "a dog"]))
    answer = await engine.answer(asked(shown(png(RED)), "What is this?", constraint=choices, stop=v1.Stop()))
    assert answer.choices[0].content.text in ("a cat", "a dog")


@pytest.mark.parametrize(
    ("parts", "field", "why"),
    [
        ([shown(b"no image")], "parts[0].image", "is none of PNG"),
        (["x", shown(png(RED)[:60])], "parts[1].image", "is damaged"),
        ([shown(png(RED, (101, 100)))], "parts[0].image", "has 10100 pixels; at most 10000"),
        ([shown(png(RED))] * 4, "parts[3].image", "is one more than the 3 images"),
        ([shown(b"")], "parts[0].image.data", "is empty"),
        ([v1.Part(image=v1.Image(data=png(RED)))], "parts[0].image.mime_type", "is the type of an image"),
        ([v1.Part(image=v1.Image(url="data:image/png;base64,?"))], "parts[0].image.url", "is not base64"),
        ([shown(png(RED)), "an <image>"], "parts[1].text", "stands for an image here"),
    ],
)
async def test_what_is_no_image_or_too_much_is_refused_by_field(
    engine: Engine, parts: list[v1.Part | str], field: str, why: str
) -> None:
    for ask in (engine.answer, engine.count, engine.streamed):
        with pytest.raises(RequestInvalid, match=why) as refusal:
            await ask(asked(*parts))
        assert refusal.value.fields[0].field == f"spec.chat.messages[0].{field}"


async def test_a_url_is_not_fetched_unless_its_host_is_listed(engine: Engine) -> None:
    with pytest.raises(ConstraintUnsupported, match="send the image itself") as refusal:
        await engine.answer(asked(v1.Part(image=v1.Image(url="http://127.0.0.1:9/a.png"))))
    assert refusal.value.fields[0].field == "spec.chat.messages[0].parts[0].image.url"


async def test_images_fill_the_context_by_the_tokens_they_have(engine: Engine) -> None:
    images = [shown(png(RED))] * PER_PROMPT
    text = "word " * 40
    while (tokens := (await engine.count(asked(*images, text))).tokens) < CONTEXT:
        text += "word " * 40
    with pytest.raises(ContextLengthExceeded) as refusal:
        await engine.answer(asked(*images, text))
    assert refusal.value.metadata["tokens"] == str(tokens)


async def test_the_word_that_stands_for_an_image_does_no_harm_by_itself(engine: Engine) -> None:
    assert await engine.says("an <image>")
    ids = [3, *[vision_model.IMAGE_ID] * 3, 1, 4]
    tokens = v1.GenerationSpec(tokens=v1.TokenPrompt(ids=ids), sampling=v1.Sampling(max_tokens=1))
    assert (await engine.answer(tokens)).usage.prompt_tokens == len(ids)
    assert await engine.says("Still there?")


async def test_what_was_refused_after_its_images_were_read_is_read_anew(engine: Engine) -> None:
    seen = shown(png((9, 99, 199)))
    with pytest.raises(ContextLengthExceeded):
        await engine.answer(asked(seen, "word " * CONTEXT))
    assert await engine.says(seen, "What is this?")


@asynccontextmanager
async def edge(engine: Engine) -> AsyncIterator[AsyncOpenAI]:
    target = TargetSettings(
        kind="local",
        name="local",
        address=engine.remote.address,
        context_window=4 * CONTEXT,  # an image that nobody can count is taken for 1,000 tokens, and these have fewer
        capabilities=frozenset({"images", "text_input"}),
    )
    settings = RouterSettings(server=LOOPBACK, http=HttpSettings(listen="127.0.0.1:0"), targets=(target,))
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(build_router(settings))
        assert router.http is not None
        yield await stack.enter_async_context(
            AsyncOpenAI(api_key="none", base_url=f"http://{router.http.address}/v1", max_retries=0)
        )


async def test_openais_client_sends_an_image_as_it_does_everywhere(engine: Engine) -> None:
    def messages(data: bytes) -> Any:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        return [{"role": "user", "content": content}]

    options: Any = {"model": "auto", "temperature": 0, "max_tokens": TOKENS}
    async with edge(engine) as client:
        whole = await client.chat.completions.create(messages=messages(png(RED)), **options)
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(messages=messages(png(RED)), stream=True, **options)
            if chunk.choices
        ]
        with pytest.raises(BadRequestError) as refusal:
            await client.chat.completions.create(messages=messages(b"no image"), **options)
    direct = await engine.answer(asked(shown(png(RED)), "What is this?", stop=v1.Stop()))
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == direct.usage.prompt_tokens
    assert "".join(pieces) == whole.choices[0].message.content == direct.choices[0].content.text
    assert refusal.value.param == "messages[0]"
