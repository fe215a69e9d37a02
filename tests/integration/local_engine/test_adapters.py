"""Adapters on the real vLLM: an engine of their own, because having them costs every request a little."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import AdapterUnknown, DeadlineExceeded, RequestInvalid, SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import engine_admin_pb2_grpc, inference_pb2_grpc
from tests.integration.local_engine import lora

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

START_S = 300.0
MAX_LOADED = 2
GREEDY = v1.Sampling(temperature=0, max_tokens=32)
ENDLESS = v1.Stop(ignore_eos=True)


@dataclass
class Engine:
    """Calls the engine; `folder` is where its adapters are."""

    remote: Remote
    folder: Path
    admin: Any = field(init=False)
    inference: Any = field(init=False)

    def __post_init__(self) -> None:
        self.admin = engine_admin_pb2_grpc.EngineAdminServiceStub(self.remote.channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)

    async def load(self, name: str, path: str = "") -> v1.Adapter:
        told = await self._ask(self.admin.LoadAdapter, v1.LoadAdapterRequest(name=name, path=path))
        return told.adapter  # type: ignore[no-any-return]

    async def unload(self, name: str, seconds: float = 60.0) -> None:
        await self._ask(self.admin.UnloadAdapter, v1.UnloadAdapterRequest(name=name), seconds)

    async def loaded(self) -> dict[str, v1.Adapter]:
        told = await self._ask(self.admin.ListAdapters, v1.ListAdaptersRequest())
        assert told.max_loaded == MAX_LOADED
        return {adapter.name: adapter for adapter in told.adapters}

    async def models(self) -> list[str]:
        (model,) = (await self._ask(self.inference.ListModels, v1.ListModelsRequest())).models
        assert v1.CAPABILITY_ADAPTERS in model.capabilities
        return list(model.adapters)

    async def says(self, adapter: str = "", **fields: Any) -> str:
        return (await self.answer(adapter, **fields)).choices[0].content.text

    async def answer(self, adapter: str = "", **fields: Any) -> v1.GenerateResponse:
        request = v1.GenerateRequest(spec=asked(adapter, **fields))
        return await self._ask(self.inference.Generate, request)  # type: ignore[no-any-return]

    def stream(self, spec: v1.GenerationSpec) -> Any:
        request = v1.StreamGenerateRequest(spec=spec)
        return self.remote.stream(self.inference.StreamGenerate, request, call(60.0), span_name="test")

    async def _ask(self, rpc: Any, request: Any, seconds: float = 60.0) -> Any:
        return await self.remote.unary(rpc, request, call(seconds), span_name="test")


def call(seconds: float) -> Call:
    return Call("test", Deadline.after(seconds))


def asked(adapter: str = "", **fields: Any) -> v1.GenerationSpec:
    text = "Where is my parcel? It was promised for last week, and nobody answers when I call about it. " * 6
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])])
    return v1.GenerationSpec(chat=chat, adapter=adapter, **{"sampling": GREEDY, "stop": ENDLESS, **fields})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    from services.local_engine.app import build
    from services.local_engine.settings import AdapterSettings, CpuSettings, LocalEngineSettings, VllmSettings

    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("formal", "casual", "third")):
        lora.write(folder / name, seed=seed)
    settings = LocalEngineSettings(
        server=LOOPBACK,
        vllm=VllmSettings(
            max_model_len=512,
            cpu=CpuSettings(kv_cache_gib=0.25),
            adapters=AdapterSettings(folder=folder, max_loaded=MAX_LOADED, max_rank=8, load={"at-start": "formal"}),
        ),
    )
    async with build(settings) as app:
        async with asyncio.timeout(START_S):
            await app.starting
        remote = Remote(app.server.address, tracing=Tracing("test"))
        yield Engine(remote, folder)
        await remote.close()


@pytest_asyncio.fixture(loop_scope="module")
async def engine(_engine: Engine) -> AsyncIterator[Engine]:
    yield _engine
    for name in await _engine.loaded():
        if name != "at-start":
            await _engine.unload(name)


async def test_what_the_settings_name_is_there_at_the_start(engine: Engine) -> None:
    assert await engine.models() == ["at-start"]
    assert await engine.says("at-start") != await engine.says()


async def test_an_adapter_changes_the_answers_under_its_name_and_no_others(engine: Engine) -> None:
    bare, begun = await engine.says(), await engine.says("at-start")
    told = await engine.load("casual")
    assert (told.name, told.path, told.rank, told.running) == ("casual", "casual", 4, 0)
    casual = await engine.says("casual")
    assert len({bare, begun, casual}) == 3
    mixed = ["", "casual", "at-start"] * 4
    together = await asyncio.gather(*(engine.says(name) for name in mixed))
    assert together == [{"": bare, "casual": casual, "at-start": begun}[name] for name in mixed]
    await engine.unload("casual")
    assert await engine.says() == bare
    with pytest.raises(AdapterUnknown, match="loaded: at-start") as refusal:
        await engine.says("casual")
    assert [violation.field for violation in refusal.value.fields] == ["spec.adapter"]


async def test_the_prefix_cache_of_one_is_nothing_to_another(engine: Engine) -> None:
    await engine.answer()
    assert (await engine.answer()).usage.cached_prompt_tokens
    await engine.load("casual")
    assert not (await engine.answer("casual")).usage.cached_prompt_tokens
    assert (await engine.answer("casual")).usage.cached_prompt_tokens


async def test_other_weights_under_the_same_name_and_folder_are_other_answers(engine: Engine) -> None:
    folder = lora.write(engine.folder / "changing", seed=10)
    await engine.load("changing")
    before = await engine.says("changing")
    await engine.unload("changing")
    shutil.rmtree(folder)
    lora.write(folder, seed=11)
    await engine.load("changing")
    answer = await engine.answer("changing")
    assert not answer.usage.cached_prompt_tokens
    assert answer.choices[0].content.text != before


async def test_adapters_come_and_go_while_others_are_answered_and_nobody_notices(engine: Engine) -> None:
    long = v1.Sampling(temperature=0, max_tokens=250)
    bare, begun = await engine.says(sampling=long), await engine.says("at-start", sampling=long)
    streams = [asyncio.create_task(engine.says(name, sampling=long)) for name in ("", "at-start") * 4]
    for _ in range(3):
        await engine.load("casual")
        await engine.says("casual", sampling=v1.Sampling(temperature=0, max_tokens=2))
        await engine.unload("casual")
    assert await asyncio.gather(*streams) == [bare, begun] * 4


async def test_one_that_is_in_use_takes_no_more_and_goes_when_its_streams_have_ended(engine: Engine) -> None:
    await engine.load("casual")
    long = v1.Sampling(temperature=0, max_tokens=250)
    whole = await engine.says("casual", sampling=long)
    said = ""
    async with engine.stream(asked("casual", sampling=long)) as answers:
        async for answer in answers:
            said += answer.event.delta.text
            if answer.event.HasField("started"):
                unloading = asyncio.create_task(engine.unload("casual"))
                with suppress(AdapterUnknown):
                    while not (await engine.loaded())["casual"].unloading:
                        pass
                with pytest.raises(AdapterUnknown):
                    await engine.says("casual")
                assert not unloading.done()
    await unloading
    assert said == whole
    assert list(await engine.loaded()) == ["at-start"]


async def test_one_that_is_in_use_for_too_long_stays(engine: Engine) -> None:
    await engine.load("casual")
    async with engine.stream(asked("casual", sampling=v1.Sampling(temperature=0, max_tokens=250))) as answers:
        await anext(aiter(answers))
        with pytest.raises(DeadlineExceeded):
            await engine.unload("casual", seconds=0.05)
        async with asyncio.timeout(10):
            while (await engine.loaded())["casual"].unloading:
                pass
        assert await engine.models() == ["at-start", "casual"]


async def test_what_cannot_be_loaded_is_refused_by_field_and_the_engine_goes_on(engine: Engine) -> None:
    bare = await engine.says()
    folder = engine.folder
    lora.write(folder / "high", rank=16)
    lora.write(folder / "wide", hidden=512)
    lora.write(folder / "narrow", hidden=128)
    lora.write(folder / "deep", layers=6)
    broken = lora.write(folder / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    dora = lora.write(folder / "dora")
    told = (dora / "adapter_config.json").read_text()
    (dora / "adapter_config.json").write_text(told.replace('"bias"', '"use_dora": true, "bias"'))
    (folder / "way-out").symlink_to(folder.parent)
    outside = lora.write(folder.parent / "outside")
    cases = {
        "high": "max_rank is 8",
        "wide": "another model",
        "narrow": "another model",
        "deep": r"no model\.layers\.4",
        "broken": "no safetensors file",
        "dora": "DoRA",
        "nowhere": "there is no nowhere",
        str(outside): "not below",
        "../outside": "not below",
        "way-out/outside": "not below",
        ".": "not below",
    }
    for path, why in cases.items():
        with pytest.raises(RequestInvalid, match=why) as refusal:
            await engine.load("bad", path)
        assert [violation.field for violation in refusal.value.fields] == ["path"], path
    assert list(await engine.loaded()) == ["at-start"]
    assert await engine.says() == bare
    for name in ("../x", "", "x" * 65, ".hidden"):
        await _refused(engine, name, "letters")
    await engine.load("casual")
    await _refused(engine, "casual", "is loaded")
    await _refused(engine, "third", "2 of at most 2")
    assert await engine.says("casual") != bare


async def _refused(engine: Engine, name: str, why: str) -> None:
    with pytest.raises(RequestInvalid, match=why) as refusal:
        await engine.load(name, "third")
    assert [violation.field for violation in refusal.value.fields] == ["name"]


async def test_unloading_what_is_not_there_says_what_is(engine: Engine) -> None:
    with pytest.raises(AdapterUnknown, match="loaded: at-start") as refusal:
        await engine.unload("nobody")
    assert [violation.field for violation in refusal.value.fields] == ["name"]


async def test_a_cut_answer_of_an_adapter_goes_on_as_if_there_had_been_no_cut(engine: Engine) -> None:
    whole = (await engine.answer("at-start")).choices[0].content
    for cut in (1, 7, 20):
        rest = asked("at-start")
        rest.continuation.token_ids.extend(whole.token_ids[:cut])
        deltas = []
        async with engine.stream(rest) as answers:
            deltas = [answer.event.delta async for answer in answers if answer.event.HasField("delta")]
        assert [token for delta in deltas for token in delta.token_ids] == list(whole.token_ids[cut:])


async def test_callers_who_leave_leave_the_adapter_free(engine: Engine) -> None:
    await engine.load("casual")
    for _ in range(5):
        with suppress(SpillwayError):
            async with engine.stream(asked("casual", sampling=v1.Sampling(max_tokens=250))) as answers:
                await anext(aiter(answers))
    await asyncio.wait_for(engine.unload("casual"), 10)
