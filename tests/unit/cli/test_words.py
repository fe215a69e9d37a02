"""What the command line says, without any process."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import typer
from rich.console import Console

from spillway import v1
from spillway.cli import adapter, ask, failure, state
from spillway.cli.figures import Figures, table
from spillway.cli.loglines import readable
from spillway.cli.plan_table import plan_table
from spillway.cli.reach import Reach, find
from spillway.cli.status import describe_load, describe_provider
from spillway.cli.terminal import duration, money, plain, rate
from spillway.cli.trace_tree import ENGINE_SPAN, trace_tree
from spillway.client import Answer
from spillway.errors import AllTargetsFailed, FieldViolation, RequestInvalid, TargetDown, TenantQuota
from spillway.telemetry import names
from spillway.telemetry.collector import SpanRecord
from spillway.testing.clock import HandClock


def printed(*what: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_numbers_are_written_one_way_and_unknown_is_not_zero() -> None:
    assert [duration(ms) for ms in (None, 0.123, 5.06, 85.4, 1240, 120_900)] == [
        *("-", "0.12 ms", "5.1 ms", "85 ms", "1.24 s", "121 s")
    ]
    assert [money(nano) for nano in (None, 0, 7350, 12_345_678)] == ["-", "$0", "$0.00000735", "$0.0123"]
    assert [rate(*pair) for pair in ((None, 5.0), (1, 5.0), (11, None), (11, 100.0))] == ["-", "-", "-", "100"]


def test_nothing_another_program_wrote_drives_the_terminal() -> None:
    assert plain("a\x1b[31mb\x07\tc\nd\x9b") == "a[31mb\tc\nd"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            RequestInvalid("a: must be 1", fields=[FieldViolation("a", "must be 1")]),
            2,
            ["INVALID_ARGUMENT REQUEST_INVALID", "a must be 1"],
        ),
        (
            AllTargetsFailed("all failed", metadata={"attempt_1": "local TARGET_DOWN"}),
            4,
            ["UNAVAILABLE ALL_TARGETS_FAILED all failed", "attempt_1: local TARGET_DOWN", "spillway status"],
        ),
        (TenantQuota("enough", retry_after_s=2.5), 5, ["RESOURCE_EXHAUSTED TENANT_QUOTA enough", "in 2.5 s"]),
        (TargetDown("UNAVAILABLE: failed to connect to all addresses; x"), 4, ["nobody answers at r:1", "spillway up"]),
    ],
)
def test_errors_name_what_is_wrong_and_what_to_do(error: RequestInvalid, code: int, said: list[str]) -> None:
    console = Console(file=io.StringIO(), width=100)
    assert failure.tell(error, Reach("r:1"), console) == code
    assert isinstance(console.file, io.StringIO)
    for text in said:
        assert text in console.file.getvalue()


def answer() -> Answer:
    attempts = [
        v1.Attempt(target="local", outcome=v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR, duration_ms=5),
        v1.Attempt(target="o/m", outcome=v1.ATTEMPT_OUTCOME_ANSWERED, duration_ms=110, first_token_ms=10),
    ]
    usage = v1.Usage(completion_tokens=11, cost_nano_usd=7350, attempts=attempts)
    usage.verdict.decision = v1.VERDICT_DECISION_ACCEPT
    return Answer(v1.GenerateResponse(started=v1.Started(target="o/m", route_reason="because"), usage=usage))


def test_one_line_says_who_answered_how_fast_and_for_how_much() -> None:
    figures = Figures.of(answer(), first_ms=200, total_ms=210, held=True)
    assert figures.line(simulated=True).plain == (
        "o/m (SIMULATED) · first token 10 ms · 11 tokens in 210 ms · 100 tokens/s · $0.00000735 · verdict accept · "
        "2 attempts (local: refused by validator; o/m: answered)"
    )


def test_a_scored_attempt_says_how_sure_it_was_and_a_judge_is_not_who_answered() -> None:
    found = answer()
    scored, judge = found.usage.attempts[1], v1.Attempt(target="judge", outcome=v1.ATTEMPT_OUTCOME_ANSWERED)
    scored.confidence = 0.934
    found.usage.attempts.append(judge)
    figures = Figures.of(found, first_ms=200, total_ms=210, held=True)
    assert figures.first_ms == 10
    assert figures.attempts[1:] == ("o/m: answered (0.93)", "judge: answered")


def test_a_summary_by_the_target_that_answered_is_not_the_answer() -> None:
    found = answer()
    summary = v1.Attempt(target="o/m", outcome=v1.ATTEMPT_OUTCOME_ANSWERED, duration_ms=900, first_token_ms=700)
    attempts = [summary, *found.usage.attempts]
    del found.usage.attempts[:]
    found.usage.attempts.extend(attempts)
    assert Figures.of(found, first_ms=200, total_ms=210, held=True).first_ms == 10


def test_the_line_of_an_answer_that_was_not_made_says_what_that_saved() -> None:
    hit = v1.CacheHit(age_ms=1500, saved_completion_tokens=11)
    usage = v1.Usage(prompt_tokens=0, completion_tokens=0, cost_nano_usd=0, cache=hit)
    cached = Answer(v1.GenerateResponse(started=v1.Started(target="o/m"), usage=usage))
    line = Figures.of(cached, first_ms=2, total_ms=3).line().plain
    assert line == "o/m · first token 2.0 ms · 0 tokens in 3.0 ms · $0 · cached, 11 tokens saved"
    hit.shared = True
    usage.cache.CopyFrom(hit)
    shared = Answer(v1.GenerateResponse(usage=usage))
    assert Figures.of(shared, first_ms=2, total_ms=3).line().plain.endswith("shared, 11 tokens saved")


def test_the_table_names_what_is_simulated() -> None:
    said = printed(table([("q", Figures.of(answer(), first_ms=20, total_ms=40))], frozenset({"o/m"})))
    assert "o/m SIMULATED" in said
    assert "because" in said


def test_a_plan_shows_every_candidate_with_its_reasons() -> None:
    plan = v1.Plan(delivery=v1.DELIVERY_MODE_LIVE, policy_revision="7")
    plan.candidates.add(target="local", kind=v1.TARGET_KIND_LOCAL, region="site", taken=True, score=200, reasons=["in"])
    plan.candidates.add(target="o/m", kind=v1.TARGET_KIND_CLOUD, region="us", reasons=["data policy"])
    lines = printed(plan_table(plan)).splitlines()
    assert lines[1].split() == ["1", "local", "local,", "site", "200", "-", "in"]
    assert lines[2].split() == ["✗", "o/m", "cloud,", "us", "-", "-", "data", "policy"]
    assert "delivery live" in lines[3]


def span(span_id: str, parent_id: str, service: str, name: str, **attributes: int) -> SpanRecord:
    return SpanRecord("t", span_id, parent_id, name, service, 10**9, 10**9 + 2_000_000, "", attributes)


def test_the_span_of_a_score_shows_it() -> None:
    found = SpanRecord("t", "a", "", names.SCORE_CONFIDENCE, "router", 1, 2, "", {names.CONFIDENCE: 0.934})
    assert "score_confidence" in printed(trace_tree([found]))
    assert "confidence 0.93" in printed(trace_tree([found]))


def test_a_trace_is_a_tree_of_spans_by_their_parents() -> None:
    spans = [
        span("a", "", "client", "spillway.client"),
        span("b", "a", "router", "spillway.v1.InferenceService/Generate", **{names.DEADLINE_LEFT_MS: 1500}),
        span("c", "b", "vllm", ENGINE_SPAN, **{names.INPUT_TOKENS: 3, names.OUTPUT_TOKENS: 5}),
    ]
    lines = printed(trace_tree(spans)).splitlines()
    assert [line.strip(" └─") for line in lines] == [
        "trace t",
        "client spillway.client  2.0 ms +0 ms",
        "router Generate  2.0 ms +0 ms  1.50 s left",
        "vllm llm_request  2.0 ms +0 ms  3 → 5 tokens",
    ]


def test_a_trace_is_settled_when_nothing_more_comes_and_vllm_has_reported() -> None:
    clock = HandClock()
    settled = ask.Settled(clock)
    spans = [span("a", "", "local_engine", names.ENGINE_GENERATE)]
    assert not settled(spans)
    clock.advance(2)
    assert not settled(spans)
    spans.append(span("b", "a", "vllm", ENGINE_SPAN))
    assert not settled(spans)
    clock.advance(2)
    assert settled(spans)


def test_log_lines_become_readable_and_noise_stays_in_the_file() -> None:
    line = json.dumps({"event": "server.listening", "timestamp": "2026-11-21T11:36:10.701234Z", "address": "a:1"})
    assert readable("router", line).plain == "router           │ 11:36:10.701 server.listening address=a:1"  # type: ignore[union-attr]
    assert readable("local_engine", "INFO vLLM is loading") is None
    assert readable("router", "  ") is None


def test_a_load_that_is_unknown_is_not_told_as_zero() -> None:
    assert describe_load(v1.Load()) == "says nothing of its load"
    assert describe_load(v1.Load(running=0, waiting=2)) == "0 running, 2 waiting"
    assert describe_load(v1.Load(state=v1.ENGINE_STATE_SERVING, running=0)) == "0 running"
    assert describe_load(v1.Load(state=v1.ENGINE_STATE_WARMING)) == "warming"


def test_a_simulated_provider_is_called_so() -> None:
    provider = v1.Provider(name="openai", simulated=True, region="us", models=["openai/m"])
    provider.limits.add(name="requests_per_minute", limit=60, remaining=59)
    assert describe_provider(provider) == "openai SIMULATED: openai/m, region us, 59 of 60 requests per minute"
    assert "no key" in describe_provider(v1.Provider(name="openai", region="us", models=["openai/m"]))


def test_a_mesh_is_found_from_folders_below_and_forgotten_when_its_process_is_gone(tmp_path: Path) -> None:
    running = state.Running(pid=os.getpid(), addresses={"router": "127.0.0.1:9"}, ready=True)
    state.write(tmp_path / state.FOLDER, running)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert state.find(below) == running
    state.write(tmp_path / state.FOLDER, state.Running(pid=2**22 + 1, addresses={}))
    assert state.find(below) is None
    (tmp_path / state.FOLDER / state.NAME).write_text("{")
    assert state.find(below) is None


def test_an_address_that_is_given_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(None) == Reach(state.DEFAULT_ROUTER)
    state.write(tmp_path / state.FOLDER, state.Running(pid=os.getpid(), addresses={"router": "127.0.0.1:9"}))
    assert find(None).router == "127.0.0.1:9"
    assert find("host:1") == Reach("host:1")


def test_a_schema_is_json_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    assert ask.options(json_schema=str(file)) == ask.options(json_schema='{"type": "object"}')
    assert ask.options(local_only=True, model=None) == {"local_only": True}
    with pytest.raises(typer.BadParameter, match="cannot read"):
        ask.options(json_schema=str(tmp_path / "missing.json"))


def test_the_plan_of_a_router_stands_below_it() -> None:
    there = v1.Plan(candidates=[v1.Candidate(target="site", taken=True), v1.Candidate(target="away")])
    plan = v1.Plan(candidates=[v1.Candidate(target="edge", taken=True, plan=there), v1.Candidate(target="spare")])
    lines = [line.split()[:2] for line in printed(plan_table(plan)).splitlines()[1:5]]
    assert lines == [["1", "edge"], ["1", "site"], ["✗", "away"], ["✗", "spare"]]


def test_of_several_engines_one_is_asked_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = {"router": "127.0.0.1:9", "local_engine small": "127.0.0.1:1", "local_engine large": "127.0.0.1:2"}
    state.write(tmp_path / state.FOLDER, state.Running(pid=os.getpid(), addresses=addresses, ready=True))
    monkeypatch.chdir(tmp_path)
    assert adapter.engine("large").router == "127.0.0.1:2"
    assert adapter.engine("elsewhere:3").router == "elsewhere:3"
    assert adapter.show(address=None, key=None) == 2
    assert "several local engines run here: name one of small, large" in capsys.readouterr().err
