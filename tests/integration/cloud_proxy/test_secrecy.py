"""Keys and prompts appear in no log, span, error or repr."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
from collections.abc import Iterator
from contextlib import aclosing
from io import StringIO
from pathlib import Path
from traceback import TracebackException
from types import AsyncGeneratorType, CoroutineType

import pytest
import structlog
from rich.console import Console
from rich.traceback import Traceback as RichTraceback

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.openai import OpenAI
from spillway.errors import SpillwayError
from spillway.testing import openai_faults as faults
from spillway.testing.openai_faults import Cut, ErrorInStream, Faults, Malformed, Reset, Stall, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.rig import call, keyring, raw, running, spec

SECRET, SECOND = "sk-this-key-must-not-show", "sk-nor-must-this-one"
PROMPT = "my very private diagnosis"


def whole(error: BaseException | None) -> Iterator[str]:
    """Everything an exception knows, and those behind it."""
    while error is not None:
        yield f"{error!r} {error} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__


async def test_keys_and_prompts_appear_nowhere(
    valkey: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told: list[str] = []
    script = Faults(
        Status(401, "invalid_api_key", message=f"Incorrect API key provided: {SECRET}, for {PROMPT}"),
        Status(400, message=f"Invalid: {PROMPT}", param="messages"),
        Status(500, f"{SECRET} {PROMPT}"),
        ErrorInStream(after=1, message=f"{SECRET} {PROMPT}"),
        Reset(),
        Cut(after=1),
        Malformed(after=1),
        faults.rate_limited(0.001),
        Stall(after=1),
    )
    simulator = OpenAISimulator(answer=lambda body: PROMPT, faults=script)
    for name, key in (("a", SECRET), ("b", SECOND)):
        (tmp_path / name).write_text(key)
        (tmp_path / name).chmod(0o600)
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        async with running(simulator, valkey, keys_dir=tmp_path, idle_s=0.2) as rig:
            for _ in range(8):  # the first one goes on with the second key
                with pytest.raises(SpillwayError) as caught:
                    await rig.stream(spec(PROMPT))
                told.extend(whole(caught.value))
                await asyncio.sleep(0.002)
            assert (await rig.stream(spec(PROMPT))).choices[0].content.text == PROMPT
            rig.tracing.flush()
            told.extend(span.to_json() for span in rig.exporter.get_finished_spans())
            told.extend((repr(rig.app), repr(rig.app.proxy.routes), str(await rig.providers())))
    out, err = capfd.readouterr()
    told.extend((str(logs), caplog.text, out, err, repr(simulator)))
    told.extend(str(seen.headers) for seen in simulator.seen)
    assert all(seen.key_sent for seen in simulator.seen)
    assert len(told) > 30
    for text in told:
        assert SECRET not in text.replace("\\", "")
        assert SECOND not in text.replace("\\", "")
        assert PROMPT not in text


@pytest.mark.parametrize("fault", [Reset(), Cut(after=1), Malformed(after=1), Status(401), Stall(after=1)])
async def test_no_exception_behind_an_error_knows_the_key(fault: faults.HttpFault) -> None:
    async with serving_openai(OpenAISimulator(faults=Faults(fault))) as url:
        await failing(url)


async def test_a_broken_answer_line_does_not_carry_the_key_in_its_exception() -> None:
    async with raw(b"HTTP/1.1 2OO nonsense\r\n\r\n") as port:
        caught = await failing(f"http://127.0.0.1:{port}/v1")
    assert caught.__context__ is None  # aiohttp's own error knows the request's headers


async def test_the_report_of_an_unexpected_error_knows_no_key_even_with_local_variables() -> None:
    provider = provider_at("http://127.0.0.1:1/v1")
    await provider.close()
    with pytest.raises(RuntimeError, match="Session is closed") as caught:
        async for _ in provider.stream(provider.prepare(spec(), "m"), call(), Exchange()):
            pass
    screen = StringIO()
    Console(file=screen, width=500).print(
        RichTraceback.from_exception(RuntimeError, caught.value, caught.tb, show_locals=True, locals_max_string=10_000)
    )
    told = "".join(TracebackException.from_exception(caught.value, capture_locals=True).format()) + screen.getvalue()
    assert "http_provider.py" in told
    assert "aiohttp" in told
    assert SECRET not in told


async def test_no_object_of_ours_and_no_frame_knows_the_key_in_the_middle_of_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with serving_openai(OpenAISimulator(faults=Faults(Stall(after=1)))) as url:
        provider = provider_at(url)
        async with aclosing(provider.stream(provider.prepare(spec(), "m"), call(), Exchange())) as answer:
            await anext(answer)
            found = list(known())
            assert len(found) > 100
            assert not [told for told in found if SECRET in told]
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                way(provider)
        await provider.close()
    assert SECRET not in caplog.text


def known() -> Iterator[str]:
    """What every object of ours, and every frame of our code that waits, would show in a dump of this process."""
    for found in gc.get_objects():
        if str(type(found).__module__).startswith(("services.", "spillway.")):
            yield repr(found)
        # By their types alone: what is asked for its class may be another library's, and answer with a warning.
        frame = found.cr_frame if type(found) is CoroutineType else None
        frame = found.ag_frame if type(found) is AsyncGeneratorType else frame
        if frame is not None and frame.f_globals["__name__"].startswith(("services.", "spillway.")):
            yield repr(frame.f_locals)


def provider_at(url: str) -> HttpProvider:
    settings = ProviderSettings.model_validate(
        {"name": "openai", "region": "us", "base_url": url, "idle_s": 0.1, "models": [{"name": "m"}]}
    )
    return HttpProvider(settings, OpenAI(settings), keyring(SECRET))


async def failing(url: str) -> SpillwayError:
    provider = provider_at(url)
    try:
        with pytest.raises(SpillwayError) as caught:
            async for _ in provider.stream(provider.prepare(spec(), "m"), call(), Exchange()):
                pass
    finally:
        await provider.close()
    assert caught.value.__cause__ is None
    assert SECRET not in " ".join(whole(caught.value))
    assert SECRET not in repr(provider)
    return caught.value
