from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.local_engine.settings import BUNDLED_MODEL
from spillway.cli.main import app

ENGINE = "local_engine: {model: %s, vllm: {max_model_len: %d, cpu: {kv_cache_gib: 0.25}}}\n"


def told(*arguments: str) -> dict[str, Any]:
    answered: dict[str, Any] = json.loads(CliRunner().invoke(app, ["doctor", "--json", *arguments]).stdout)
    return answered


def errors(report: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in report["findings"] if finding["severity"] == "error"}


def test_the_keys_of_the_json_stay() -> None:
    report = told("--model", str(BUNDLED_MODEL))
    assert set(report) == {"format", "healthy", "machine", "asked", "model", "fit", "findings", "families"}
    assert report["format"] == 1
    assert set(report["machine"]) == {"device", "cpu", "memory", "gpus", "driver", "cards", "software", "disk"}
    assert set(report["model"]) == {
        *("name", "kind", "parameters", "bits", "exact", "source", "layers", "context", "stateful_layers")
    }
    assert set(report["fit"]) == {
        *("verdict", "device", "shards", "width", "budget_bytes", "weights_bytes", "activation_bytes"),
        *("runtime_bytes", "kv_cache_bytes", "kv_token_bytes", "context", "context_bytes", "longest"),
        *("stream_tokens", "streams", "short_bytes", "obstacle", "needed_bytes"),
    }
    assert {(row["family"], row["bits"]) for row in report["families"]} >= {("8B", 4), ("8x7B", 16)}
    assert (report["model"]["parameters"], report["model"]["exact"]) == (3_148_032, True)


def test_a_model_larger_than_any_machine_fails_with_what_is_missing() -> None:
    answered = CliRunner().invoke(app, ["doctor", "--parameters", "1e14", "--bits", "16"])
    assert answered.exit_code == 1
    assert "100T x 16 bits does not fit" in answered.stdout
    assert "GiB too little" in answered.stdout
    assert "too_big" in errors(told("--model", "100T@16")) or "no_place" in errors(told("--model", "100T@16"))


def test_a_configuration_says_model_and_memory(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(ENGINE % (BUNDLED_MODEL, 1024))
    report = told("--config", str(config))
    assert report["model"]["name"] == BUNDLED_MODEL.name
    assert (report["asked"]["max_model_len"], report["asked"]["kv_cache_bytes"]) == (1024, 2**28)
    config.write_text(ENGINE % (BUNDLED_MODEL, 10_000_000))
    assert "too_big" in errors(told("--config", str(config))) or report["machine"]["device"] == "gpu"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "no/such-model"), "model: no/such-model is no folder"),
        (("--model", "8B", "--parameters", "7e9"), "parameters: name either"),
        (("--model", "8B@99"), "bits: expected a number from 1 to 32"),
        (("--model", "8B", "--kv-cache-dtype", "fp-eight"), "kv_cache_dtype: expected auto"),
        (("--bits", "4"), "bits: goes with --parameters"),
        (("--config", "no-such-file.yaml"), "cannot read no-such-file.yaml"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_name(arguments: tuple[str, ...], said: str) -> None:
    answered = CliRunner().invoke(app, ["doctor", *arguments])
    assert answered.exit_code == 2
    assert said in answered.stderr.replace("\n", " ")
    assert answered.stdout == ""


def test_a_wrong_setting_is_told_with_its_path(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text("local_engine: {vllm: {gpu_memory_utilization: 2}}\n")
    answered = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert answered.exit_code == 2
    assert "local_engine.vllm.gpu_memory_utilization" in answered.stderr


def test_torch_is_not_loaded() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from typer.testing import CliRunner; from spillway.cli.main import app; "
        "CliRunner().invoke(app, ['doctor', '--model', '8B@4']); "
        "print([name for name in ('torch', 'vllm', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_engines_that_share_a_machine_are_judged_together(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    own = f"model: {BUNDLED_MODEL}, vllm: {{max_model_len: 512, cpu: {{kv_cache_gib: 0.1}}}}"
    config.write_text(f"local_engines: {{small: {{{own}}}, large: {{{own}}}}}\n")
    report = told("--config", str(config))
    assert set(report) == {"format", "healthy", "machine", "engines", "findings"}
    assert list(report["engines"]) == ["small", "large"]
    assert report["engines"]["large"]["model"]["name"] == BUNDLED_MODEL.name
    config.write_text(f"local_engines: {{small: {{{own}}}, large: {{{own}, share: {{cores: 4096}}}}}}\n")
    answered = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert answered.exit_code == 1
    assert "large 4096, small 1 or more are asked for" in answered.stdout.replace("\n", " ")
    refused = CliRunner().invoke(app, ["doctor", "--config", str(config), "--model", "8B"])
    assert refused.exit_code == 2
    assert "names several engines, small, large: set it there" in refused.stderr.replace("\n", " ")
