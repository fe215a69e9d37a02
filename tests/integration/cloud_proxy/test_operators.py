"""What operators see of the cloud proxy: estimates, providers, the audit trail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import typer
from typer.testing import CliRunner, Result

from spillway import v1
from spillway.cli.audit import read_since
from spillway.cli.main import app
from spillway.errors import ConstraintUnsupported, ModelUnknown, PolicyBlocked
from spillway.testing.openai_simulator import OpenAISimulator
from tests.integration.cloud_proxy.rig import MODEL, STAMP, Rig, running, spec

pytestmark = pytest.mark.usefixtures("logs_come_back")
MODELS = [
    {"name": "gpt-4o-mini"},
    {"name": "mine", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2, "as_of": "2026-11-21"}},
    {"name": "nobody-knows"},
    {"name": "text-embedding-3-small", "capabilities": ["embeddings"]},
]


async def command(*words: str) -> Result:
    """Run `spillway` beside what runs here."""
    return await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, list(words))


async def estimates(rig: Rig, asked: v1.GenerationSpec) -> Sequence[v1.CostEstimate]:
    return (await rig.estimate(asked)).estimates


async def test_an_estimate_is_by_prompt_usual_answer_and_bound_and_says_whose_price_it_is(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, models=MODELS, default_answer_tokens=100) as rig:
        asked = spec("a" * 300, model="", sampling=v1.Sampling(max_tokens=400, n=2))
        listed, mine, unknown = await estimates(rig, asked)
        [free] = await estimates(rig, spec("a" * 300, model="openai/mine"))
        [short] = await estimates(rig, spec("hi", model="openai/mine", sampling=v1.Sampling(max_tokens=10)))
    prompt = mine.prompt_tokens
    assert (mine.target, mine.expected_completion_tokens, mine.max_completion_tokens) == ("openai/mine", 200, 800)
    assert mine.expected_cost_nano_usd == prompt * 1000 + 200 * 2000
    assert mine.max_cost_nano_usd == prompt * 1000 + 800 * 2000
    assert (mine.price_source, mine.price_date) == ("settings", "2026-11-21")
    assert listed.max_cost_nano_usd == prompt * 150 + 800 * 600
    assert listed.price_source.startswith("genai-prices ")
    assert not unknown.HasField("expected_cost_nano_usd")
    assert not unknown.HasField("max_cost_nano_usd")
    assert (unknown.price_source, unknown.price_date) == ("", "")
    assert not free.HasField("max_completion_tokens")
    assert not free.HasField("max_cost_nano_usd")
    assert short.expected_completion_tokens == 10


async def test_an_estimate_for_what_is_not_served_or_does_not_generate_is_refused(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, models=MODELS) as rig:
        with pytest.raises(ModelUnknown):
            await rig.estimate(spec(model="openai/none"))
        with pytest.raises(ConstraintUnsupported, match="embeds"):
            await rig.estimate(spec(model="openai/text-embedding-3-small"))


async def test_nothing_is_sent_for_an_estimate(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey) as rig:
        await rig.estimate(spec(model=""))
        told = await command("cost", "hello there", "--max-tokens", "100", "--address", rig.app.server.address)
    assert simulator.seen == []
    assert told.exit_code == 0
    assert MODEL in told.stdout
    assert "genai-prices" in told.stdout


async def test_a_cost_is_told_to_programs_too(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, models=MODELS) as rig:
        words = ("--model", "openai/mine", "--max-tokens", "100", "--json", "--address", rig.app.server.address)
        told = await command("cost", "hello there", *words)
        wrong = await command("cost", "hello there", "--model", "openai/none", "--address", rig.app.server.address)
    [estimate] = json.loads(told.stdout)["estimates"]
    assert (estimate["target"], estimate["max_cost_nano_usd"]) == ("openai/mine", str(4000 + 100 * 2000))
    assert wrong.exit_code == 2


async def test_providers_say_what_they_serve_and_who_cannot_says_why(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey, retention_days=30) as rig:
        [plain] = (await rig.providers()).providers
        [asked] = (await rig.providers(ask=True)).providers
        shown = await command("providers", "--ask", "--address", rig.app.server.address)
    assert (plain.wire, plain.retention_days, list(plain.served_models)) == ("openai", 30, [])
    assert list(asked.served_models)
    assert asked.served_models_error == ""
    assert "30 d" in shown.stdout
    assert "SIMULATED" in shown.stdout
    async with running(simulator, valkey, url="http://127.0.0.1:1/v1") as rig:
        [gone] = (await rig.providers(ask=True)).providers
    assert (gone.served_models_error, list(gone.served_models)) == ("TARGET_DOWN", [])


async def test_a_model_says_where_its_content_goes_and_for_how_long(valkey: str) -> None:
    models = [{"name": "here", "region": "eu", "retention_days": 0}, {"name": "there"}]
    async with running(OpenAISimulator(), valkey, models=models, retention_days=30) as rig:
        told = (await rig.models()).models
    assert [(each.region, each.retention_days) for each in told] == [("eu", 0), ("us", 30)]


async def test_the_audit_command_shows_calls_and_sums_them_by_provider_and_region(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        for tenant in ("acme", "other"):
            stamp = v1.PolicyStamp()
            stamp.CopyFrom(STAMP)
            stamp.tenant = tenant
            await rig.stream(spec("my diagnosis"), stamp=stamp)
        with pytest.raises(PolicyBlocked):
            await rig.stream(spec("my diagnosis"), stamp=None)
    shown = await command("audit", "--store", valkey)
    told = await command("audit", "--store", valkey, "--tenant", "acme", "--since", "1h", "--json")
    assert shown.exit_code == 0
    assert shown.stdout.count("ANSWERED") == 2
    assert shown.stdout.count("POLICY_BLOCKED") == 1
    sums = shown.stdout.splitlines()[-1].split()
    assert sums[:3] == ["openai", "us", "2"]
    assert "diagnosis" not in shown.stdout
    [call] = [json.loads(line) for line in told.stdout.splitlines()]
    assert (call["tenant"], call["outcome"]) == ("acme", "ANSWERED")


async def test_a_store_that_is_away_is_told_and_not_shown_as_nothing() -> None:
    told = await command("audit", "--store", "unix:///nowhere/valkey.sock")
    assert told.exit_code == 4
    assert "cannot be read" in told.stderr


def test_since_is_a_span_or_a_time() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert read_since("90m", now) == datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
    assert read_since("7d", now) == datetime(2026, 11, 15, 12, tzinfo=UTC)
    assert read_since("2026-11-21T08:00", now) == datetime(2026, 11, 21, 8, tzinfo=UTC)
    with pytest.raises(typer.BadParameter):
        read_since("yesterday", now)
