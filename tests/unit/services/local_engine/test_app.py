"""The service over a backend made for the test, through real gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from grpc.aio import insecure_channel

from services.local_engine.adapter_source import Adapter
from services.local_engine.app import LocalEngine, build
from services.local_engine.backend import AdapterLoader, Backend, Count
from services.local_engine.pace import Window
from services.local_engine.settings import AdapterSettings, LocalEngineSettings
from spillway import v1
from spillway.cli import adapter
from spillway.deadline import Deadline
from spillway.errors import (
    AdapterUnknown,
    ConstraintUnsupported,
    ModelUnknown,
    RequestInvalid,
    ScopeMissing,
    TargetDown,
    TargetDraining,
)
from spillway.rpc.call import Call
from spillway.rpc.keys import hash_key
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings, SettingsError
from spillway.telemetry.tracing import Tracing
from spillway.testing.waiting import eventually
from spillway.v1 import engine_admin_pb2_grpc, engine_pb2_grpc, inference_pb2_grpc
from tests.unit.services.local_engine.test_adapters import write

SETTINGS = LocalEngineSettings(server=ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0))
PATIENT = LocalEngineSettings(server=ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=30))
SPEC = v1.GenerationSpec(text=v1.TextPrompt(text="hi"))


@dataclass
class Scripted:
    """A backend that says `words`, and hangs after them if told to."""

    words: tuple[str, ...] = ("one", " two")
    hangs: bool = False
    loses: int = 0
    """Vectors that are missing from its answers."""
    pauses: bool = False
    """It says the rest when `goes_on` is set."""
    greets: asyncio.Event | None = None
    """It says its first word of all when this is set."""
    context_window: int = 10
    capabilities: tuple[v1.Capability.ValueType, ...] = (v1.CAPABILITY_TEXT_INPUT,)
    adapters: AdapterLoader | None = None
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    closed: bool = False
    why: str = ""
    wavering: asyncio.Event = field(default_factory=asyncio.Event)
    windows: list[float] = field(default_factory=list)

    async def generate(
        self, spec: v1.GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        self.running += 1
        self.left.clear()
        self.windows.append(window())
        try:
            if self.greets is not None and call.request_id == "warm-up":
                self.hanging.set()
                await self.greets.wait()
            yield v1.GenerationEvent(started=v1.Started(prompt_tokens=1))
            for word in self.words:
                yield v1.GenerationEvent(delta=v1.Delta(text=word, tokens=1))
            if self.hangs and call.request_id != "warm-up":
                self.hanging.set()
                await self.dead.wait()
                raise TargetDown("the engine died")
            if self.pauses and call.request_id != "warm-up":
                self.hanging.set()
                await self.goes_on.wait()
            yield v1.GenerationEvent(finished=v1.Finished(choices=[v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)]))
            yield v1.GenerationEvent(usage=v1.Usage(prompt_tokens=1, completion_tokens=len(self.words)))
        finally:
            self.running -= 1
            self.left.set()

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        alive()
        if self.hangs and call.request_id != "warm-up":
            self.hanging.set()
            await self.dead.wait()
            raise TargetDown("the engine died")
        vectors = [v1.Embedding(values=[1.0, 0.0])] * (len(spec.inputs) - self.loses)
        return v1.EmbedResponse(embeddings=vectors, usage=v1.Usage(prompt_tokens=1, completion_tokens=0))

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        return Count(7)

    def trouble(self) -> str:
        return self.why

    async def changed(self) -> None:
        await self.wavering.wait()
        self.wavering.clear()

    def load(self, state: v1.EngineState.ValueType) -> v1.Load:
        return v1.Load(state=state, sequence=1, running=self.running)

    async def died(self) -> str:
        await self.dead.wait()
        return "killed"

    async def close(self) -> None:
        self.closed = True


class Client:
    def __init__(self, address: str) -> None:
        self.remote = Remote(address, tracing=Tracing("test"))
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        self.admin = engine_admin_pb2_grpc.EngineAdminServiceStub(self.remote.channel)
        self.telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(self.remote.channel)
        self.call = Call("r1", Deadline.after(10))

    async def events(self, spec: v1.GenerationSpec = SPEC) -> list[v1.GenerationEvent]:
        request = v1.StreamGenerateRequest(spec=spec)
        async with self.remote.stream(self.inference.StreamGenerate, request, self.call, span_name="test") as answers:
            return [answer.event async for answer in answers]

    async def generate(self, spec: v1.GenerationSpec = SPEC) -> v1.GenerateResponse:
        return await self.remote.unary(
            self.inference.Generate, v1.GenerateRequest(spec=spec), self.call, span_name="test"
        )

    async def load(self) -> v1.Load:
        response = await self.remote.unary(self.telemetry.GetLoad, v1.GetLoadRequest(), self.call, span_name="test")
        return response.load


@asynccontextmanager
async def running(
    backend: Scripted, *, ready: bool = True, settings: LocalEngineSettings = SETTINGS
) -> AsyncIterator[tuple[LocalEngine, Client]]:
    async def opened(settings: LocalEngineSettings) -> Backend:
        return backend

    async with build(settings, open_backend=opened) as app:
        if ready:
            await app.starting
        client = Client(app.server.address)
        try:
            yield app, client
        finally:
            await client.remote.close()


async def test_events_are_numbered_and_say_who_answers() -> None:
    async with running(Scripted()) as (_, client):
        events = await client.events()
    assert [event.sequence for event in events] == list(range(5))
    assert [event.WhichOneof("event") for event in events] == ["started", "delta", "delta", "finished", "usage"]
    started = events[0].started
    assert (started.request_id, started.model, started.target, started.prompt_tokens) == ("r1", "bundled", "local", 1)


async def test_a_unary_answer_is_the_stream_folded() -> None:
    async with running(Scripted()) as (_, client):
        response = await client.generate()
    assert response.choices[0].content.text == "one two"
    assert response.choices[0].finish.reason == v1.FINISH_REASON_STOP
    assert response.usage.completion_tokens == 2


async def test_it_listens_before_the_engine_is_up_and_refuses_until_it_is() -> None:
    up = asyncio.Event()

    async def opened(settings: LocalEngineSettings) -> Backend:
        await up.wait()
        return Scripted()

    async with build(SETTINGS, open_backend=opened) as app:
        client = Client(app.server.address)
        assert not app.server.health.ready
        assert await client.load() == v1.Load(state=v1.ENGINE_STATE_STARTING)
        with pytest.raises(TargetDown, match="starting"):
            await client.generate()
        up.set()
        await app.starting
        assert app.server.health.ready
        assert (await client.load()).state == v1.ENGINE_STATE_SERVING
        assert (await client.generate()).choices[0].content.text == "one two"
        await client.remote.close()


async def test_loaded_it_is_warming_and_refuses_until_its_first_token() -> None:
    greets = asyncio.Event()
    backend = Scripted(greets=greets)
    async with running(backend, ready=False) as (app, client):
        await backend.hanging.wait()
        assert (await client.load()).state == v1.ENGINE_STATE_WARMING
        assert not app.server.health.ready
        with pytest.raises(TargetDown, match="starting"):
            await client.generate()
        greets.set()
        await app.starting
        assert (await client.load()).state == v1.ENGINE_STATE_SERVING


async def test_an_engine_that_cannot_start_is_a_wrong_setting() -> None:
    async def opened(settings: LocalEngineSettings) -> Backend:
        raise SettingsError("local_engine.model: no such thing")

    async with build(SETTINGS, open_backend=opened) as app:
        with pytest.raises(SettingsError, match="no such thing"):
            await app.died()


async def test_a_service_stopped_while_it_starts_stops() -> None:
    cancelled = asyncio.Event()

    async def opened(settings: LocalEngineSettings) -> Backend:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with build(SETTINGS, open_backend=opened):
        await asyncio.sleep(0)
    assert cancelled.is_set()


async def test_when_the_engine_dies_its_streams_end_before_the_service_does() -> None:
    backend = Scripted(hangs=True)
    async with running(backend) as (app, client):
        dying = asyncio.create_task(app.died())
        stream = asyncio.create_task(client.events())
        await backend.hanging.wait()
        assert (await client.load()).running == 1
        backend.dead.set()
        with pytest.raises(TargetDown, match="the engine died"):
            await stream
        assert await dying == "killed"
        assert (await client.load()).state == v1.ENGINE_STATE_UNHEALTHY
        with pytest.raises(TargetDown, match="has died"):
            await client.events()
    assert backend.closed


async def test_a_caller_who_leaves_stops_the_backend() -> None:
    backend = Scripted(hangs=True)
    async with running(backend) as (_, client):
        stream = asyncio.create_task(client.events())
        await backend.hanging.wait()
        stream.cancel()
        await asyncio.wait([stream])
        await asyncio.wait_for(backend.left.wait(), 5)
        assert backend.running == 0


async def test_only_the_model_that_is_served_may_be_named() -> None:
    async with running(Scripted()) as (_, client):
        for name in ("", "bundled", "local"):
            assert await client.events(v1.GenerationSpec(model=name, text=SPEC.text))
        with pytest.raises(ModelUnknown, match=r"spec\.model"):
            await client.events(v1.GenerationSpec(model="other", text=SPEC.text))


async def test_the_merging_window_is_the_callers_or_the_settings() -> None:
    backend = Scripted()
    async with running(backend) as (_, client):
        await client.events()
        await client.events(v1.GenerationSpec(text=SPEC.text, coalescing=v1.Coalescing(window_ms=0)))
    assert backend.windows[-2:] == [0.02, 0.0]


async def test_many_streams_are_merged_more() -> None:
    backend = Scripted()
    async with running(backend) as (app, client):
        app.engine.running = 29
        await client.events()
        app.engine.running = 5000
        await client.events()
    assert backend.windows[-2:] == [pytest.approx(0.05), 0.1]


async def test_models_and_tokens_are_told() -> None:
    async with running(Scripted()) as (app, _), insecure_channel(app.server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        (model,) = (await stub.ListModels(v1.ListModelsRequest())).models
        assert (model.name, model.target, model.region, model.context_window) == ("bundled", "local", "site", 10)
        assert model.kind == v1.TARGET_KIND_LOCAL
        counted = await stub.CountTokens(v1.CountTokensRequest(spec=SPEC))
        assert (counted.tokens, counted.exact, counted.model) == (7, True, "bundled")


async def test_a_service_on_its_way_out_says_draining() -> None:
    async with running(Scripted()) as (app, client):
        app.server.draining = True
        assert (await client.load()).state == v1.ENGINE_STATE_DRAINING


async def test_who_watches_the_load_is_told_and_let_go_when_the_service_stops() -> None:
    async with running(Scripted()) as (app, client):
        request = v1.WatchLoadRequest(interval_ms=20)
        async with client.remote.stream(client.telemetry.WatchLoad, request, client.call, span_name="test") as told:
            loads = [(await anext(aiter(told))).load]
            app.server.draining = True
            loads += [response.load async for response in told]
    assert [load.state for load in loads] == [v1.ENGINE_STATE_SERVING, v1.ENGINE_STATE_DRAINING]
    assert loads[0].running == 0


async def test_a_backend_that_is_in_trouble_is_not_ready_until_it_is_out_of_it() -> None:
    backend = Scripted()
    async with running(backend) as (app, client):
        backend.why = "the runtime sleeps"
        backend.wavering.set()
        await eventually(lambda: not app.server.health.ready)
        assert app.engine.load().state == v1.ENGINE_STATE_UNHEALTHY
        with pytest.raises(TargetDown, match="local: the runtime sleeps"):
            await client.generate()
        backend.why = ""
        backend.wavering.set()
        await eventually(lambda: app.server.health.ready)
        assert (await client.generate()).choices[0].content.text == "one two"


async def test_a_service_on_its_way_out_is_never_ready_again() -> None:
    backend = Scripted()
    async with running(backend) as (app, _):
        await app.server.drain()
        backend.wavering.set()
        await eventually(lambda: not backend.wavering.is_set())
        assert not app.server.health.ready


async def test_while_it_drains_what_runs_ends_whole_and_new_calls_are_told_so() -> None:
    backend = Scripted(pauses=True)
    async with running(backend, settings=PATIENT) as (app, client):
        stream = asyncio.create_task(client.events())
        await backend.hanging.wait()
        told = await client.remote.unary(client.admin.Drain, v1.DrainRequest(), client.call, span_name="test")
        assert told.running == 1
        await app.server.asked_to_stop()
        draining = asyncio.create_task(app.server.drain())
        await eventually(lambda: not app.server.health.ready)
        assert (await client.load()).state == v1.ENGINE_STATE_DRAINING
        with pytest.raises(TargetDraining):
            await client.events()
        with pytest.raises(TargetDraining):
            await client.generate()
        assert not draining.done()
        backend.goes_on.set()
        events = await stream
        assert events[-1].usage.completion_tokens == 2
        await draining


async def test_what_does_not_end_in_the_time_it_was_given_is_cut() -> None:
    backend = Scripted(pauses=True)
    async with running(backend, settings=PATIENT) as (app, client):
        stream = asyncio.create_task(client.events())
        await backend.hanging.wait()
        request = v1.DrainRequest(grace_s=0)
        await client.remote.unary(client.admin.Drain, request, client.call, span_name="test")
        await client.remote.unary(client.admin.Drain, v1.DrainRequest(), client.call, span_name="test")
        await app.server.drain()
        with pytest.raises(TargetDown):
            await stream
        await asyncio.wait_for(backend.left.wait(), 5)


@pytest.mark.parametrize("grace_s", [-1.0, float("inf"), float("nan")])
async def test_a_time_to_drain_that_is_none_is_refused_by_name(grace_s: float) -> None:
    async with running(Scripted()) as (app, client):
        request = v1.DrainRequest(grace_s=grace_s)
        with pytest.raises(RequestInvalid) as refusal:
            await client.remote.unary(client.admin.Drain, request, client.call, span_name="test")
        assert [violation.field for violation in refusal.value.fields] == ["grace_s"]
        assert app.server.health.ready


async def test_an_engine_without_adapters_says_so() -> None:
    async with running(Scripted()) as (_, client):
        told = await client.remote.unary(
            client.admin.ListAdapters, v1.ListAdaptersRequest(), client.call, span_name="t"
        )
        assert told == v1.ListAdaptersResponse()
        with pytest.raises(RequestInvalid, match=r"local_engine\.vllm\.adapters"):
            await client.remote.unary(
                client.admin.LoadAdapter, v1.LoadAdapterRequest(name="a"), client.call, span_name="t"
            )


async def test_operators_need_a_key_for_it(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    entry = {"name": "app", "sha256": hash_key("secret"), "tenant": "t", "scopes": ["generate"]}
    keys.write_text(json.dumps({"keys": [entry]}))
    settings = LocalEngineSettings(server=SETTINGS.server.model_copy(update={"keys_file": keys}))
    async with running(Scripted(), settings=settings) as (app, client):
        remote = Remote(app.server.address, tracing=Tracing("test"), key="secret")
        await remote.unary(
            inference_pb2_grpc.InferenceServiceStub(remote.channel).ListModels,
            v1.ListModelsRequest(),
            client.call,
            span_name="t",
        )
        with pytest.raises(ScopeMissing, match="admin"):
            stub = engine_admin_pb2_grpc.EngineAdminServiceStub(remote.channel)
            await remote.unary(stub.Drain, v1.DrainRequest(), client.call, span_name="t")
        await remote.close()


class Shelf:
    """A loader that keeps what it is given."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def load(self, adapter: Adapter) -> None:
        self.names.append(adapter.name)

    async def unload(self, adapter: Adapter) -> None:
        self.names.remove(adapter.name)


@pytest.mark.usefixtures("logs_come_back")
async def test_operators_load_list_and_unload_adapters_by_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("formal", "casual"):
        write(tmp_path / name, width=256)
    told = AdapterSettings(folder=tmp_path, max_loaded=1)
    settings = SETTINGS.model_copy(update={"vllm": SETTINGS.vllm.model_copy(update={"adapters": told})})
    backend = Scripted(adapters=Shelf())
    async with running(backend, settings=settings) as (app, client):
        address = app.server.address
        capsys.readouterr()  # what the engine logged

        async def says(command: Callable[..., int], *arguments: str, **named: float) -> tuple[int, str]:
            code = await asyncio.to_thread(command, *arguments, address=address, key=None, **named)
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        assert await says(adapter.show) == (0, "none of at most 1 is loaded\n")
        assert await says(adapter.load, "polite", "formal") == (0, "polite: loaded from formal, rank 2\n")
        assert (await client.generate(v1.GenerationSpec(text=SPEC.text, adapter="polite"))).choices
        code, said = await says(adapter.load, "casual", "")
        assert code == 2
        assert "1 of at most 1 adapters are loaded: polite" in said
        code, said = await says(adapter.show)
        assert said.splitlines()[1].split() == ["polite", "formal", "2", "0"]
        assert (await says(adapter.unload, "nobody", wait_s=5.0))[0] == 2
        assert await says(adapter.unload, "polite", wait_s=5.0) == (0, "polite: unloaded\n")
        with pytest.raises(AdapterUnknown, match=r"spec\.adapter"):
            await client.generate(v1.GenerationSpec(text=SPEC.text, adapter="polite"))
    assert await asyncio.to_thread(adapter.show, address="127.0.0.1:1", key=None) == 4


EMBEDS = (v1.CAPABILITY_EMBEDDINGS, v1.CAPABILITY_TOKEN_INPUT)
TEXTS = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="a"), v1.EmbeddingInput(text="b")])


async def embedded(client: Client, spec: v1.EmbeddingSpec = TEXTS) -> v1.EmbedResponse:
    return await client.remote.unary(client.inference.Embed, v1.EmbedRequest(spec=spec), client.call, span_name="test")


async def test_a_model_that_embeds_is_warmed_by_a_vector_and_serves_them() -> None:
    async with running(Scripted(capabilities=EMBEDS)) as (app, client):
        answer = await embedded(client)
        assert (answer.model, answer.target, answer.request_id) == (app.engine.model, app.engine.target, "r1")
        assert len(answer.embeddings) == 2
        assert set(app.engine.models()[0].capabilities) == set(EMBEDS)
        with pytest.raises(ConstraintUnsupported, match="embeds, and generates nothing"):
            await client.generate()


async def test_vectors_that_are_not_all_there_are_no_answer() -> None:
    backend = Scripted(capabilities=EMBEDS)
    async with running(backend) as (_, client):
        backend.loses = 1
        with pytest.raises(TargetDown, match="1 vectors came for 2 inputs"):
            await embedded(client)


async def test_the_first_vector_is_a_sign_of_life_before_the_last() -> None:
    backend = Scripted(capabilities=EMBEDS, hangs=True)
    async with running(backend) as (app, client):
        # As the router calls it: gRPC's own unary call holds headers back until the answer is whole.
        embed = client.remote.channel.unary_stream(
            "/spillway.v1.InferenceService/Embed",
            request_serializer=v1.EmbedRequest.SerializeToString,
            response_deserializer=v1.EmbedResponse.FromString,
        )
        rpc = embed(v1.EmbedRequest(spec=TEXTS), timeout=10)
        assert dict(await rpc.initial_metadata())["x-spillway-target"] == app.engine.target
        assert not rpc.done()
        assert app.engine.running == 1
        rpc.cancel()
        await app.engine.idle()
