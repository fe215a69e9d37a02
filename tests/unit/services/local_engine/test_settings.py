"""What runs the model, as the configuration says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from services.cloud_proxy.settings import CloudProxySettings
from services.local_engine.openai_backend import capabilities, spoken
from services.local_engine.presets import PRESETS
from services.local_engine.settings import BUNDLED_MODEL, ImageSettings, LocalEngineSettings, RuntimeSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.settings import ServerSettings, SettingsError, load

DOCS = Path(__file__).parents[4] / "docs"


def runtime(**told: Any) -> RuntimeSettings:
    return RuntimeSettings.model_validate(told)


def engine(**told: Any) -> LocalEngineSettings:
    return LocalEngineSettings.model_validate(told)


def test_vllm_in_this_process_is_what_runs_by_default() -> None:
    assert engine().runtime.in_process
    assert engine().name == "bundled"
    assert engine().names == {"bundled", "local", str(BUNDLED_MODEL)}


def test_every_kind_but_the_one_in_process_has_a_preset() -> None:
    kinds = set(RuntimeSettings.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]
    assert kinds - {"vllm"} == set(PRESETS)


def test_the_models_name_is_the_runtimes_unless_it_is_served_under_another() -> None:
    assert engine(runtime={"kind": "ollama", "model": "llama3"}).name == "llama3"
    assert engine(runtime={"kind": "ollama"}, model="llama3").runtime_model == "llama3"
    assert engine(runtime={"kind": "ollama"}).name == "ollama"
    assert engine(runtime={"kind": "ollama", "model": "llama3"}, served_name="small").names == {
        "small",
        "local",
        "llama3",
    }


@pytest.mark.parametrize("told", ["http://here:1/v1", "http://here:1/v1/", "http://here:1"])
def test_an_address_may_have_the_path_that_other_clients_want(told: str) -> None:
    assert runtime(kind="openai", address=told).address == "http://here:1"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"kind": "nobody"}, "Input should be 'vllm'"),
        ({"kind": "ollama", "address": "localhost:11434"}, "must be http"),
        ({"kind": "ollama", "address": "http://me:secret@here"}, "a key comes from api_key_env"),
        ({"address": "http://here:1"}, "address: for a runtime that runs by itself; `kind: vllm-serve` is one"),
        ({"kind": "mlx", "num_ctx": 4096}, "num_ctx: for `kind: ollama` alone"),
        ({"kind": "mlx", "capabilities": ["telepathy"]}, "Input should be 'json_schema'"),
        ({"kind": "mlx", "idle_s": 0}, "greater than 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_to_do(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        runtime(**told)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_path_of_a_wrong_setting_is_told() -> None:
    environ = {"SPILLWAY_LOCAL_ENGINE__RUNTIME__KIND": "ollama", "SPILLWAY_LOCAL_ENGINE__RUNTIME__MODLE": "x"}
    with pytest.raises(SettingsError, match=r"local_engine\.runtime\.modle: unknown setting"):
        load("local_engine", LocalEngineSettings, path=None, environ=environ)


def test_ollama_is_spoken_to_in_its_own_words_where_openais_have_none() -> None:
    assert spoken(runtime(kind="ollama"))[0].path == "/v1/chat/completions"
    assert spoken(runtime(kind="ollama", num_ctx=8192))[0].path == "/api/chat"
    assert spoken(runtime(kind="ollama", keep_alive="-1"))[0].path == "/api/chat"


def test_what_a_model_can_do_is_what_the_settings_say() -> None:
    told = capabilities(runtime(kind="llama-cpp", capabilities=["images", "text_input"]), PRESETS["llama-cpp"])
    assert told == (v1.CAPABILITY_IMAGES, v1.CAPABILITY_TEXT_INPUT)


def test_the_example_of_the_documentation_is_a_configuration() -> None:
    path = DOCS / "runtimes.yaml"
    told = load("local_engine", LocalEngineSettings, path=path, environ={})
    assert told.runtime.kind == "ollama"
    assert told.server == ServerSettings(listen="127.0.0.1:7071")
    (local, _) = load("router", RouterSettings, path=path, environ={}).targets
    named = {
        v1.Capability.Name(one).removeprefix("CAPABILITY_").lower() for one in spoken(told.runtime)[1].capabilities
    }
    assert local.capabilities == named
    assert local.context_window == told.runtime.num_ctx


def test_the_example_of_a_mesh_that_embeds_is_a_configuration() -> None:
    path = DOCS / "embeddings.yaml"
    told = load("local_engine", LocalEngineSettings, path=path, environ={})
    assert (told.vllm.task, told.name) == ("embed", "bundled")
    local, cloud = load("router", RouterSettings, path=path, environ={}).targets
    assert local.model == told.name
    assert local.capabilities == {"embeddings", "token_input"}
    (provider,) = load("cloud_proxy", CloudProxySettings, path=path, environ={}).providers
    assert cloud.model == f"{provider.name}/{provider.models[0].name}"


@pytest.mark.parametrize("kind", ["vllm-serve", "llama-cpp", "ollama", "lm-studio", "openai"])
def test_a_runtime_that_embeds_does_so_where_the_settings_say_that_the_model_does(kind: str) -> None:
    embeds = runtime(kind=kind, capabilities=["embeddings"])
    assert capabilities(embeds, spoken(embeds)[1]) == (v1.CAPABILITY_EMBEDDINGS,)
    assert v1.CAPABILITY_EMBEDDINGS not in capabilities(runtime(kind=kind), spoken(runtime(kind=kind))[1])


@pytest.mark.parametrize("kind", ["jan", "gpt4all", "tensorrt-llm", "mlx", "transformers"])
def test_a_runtime_without_embeddings_is_refused_by_name(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"{kind} has no embeddings"):
        spoken(runtime(kind=kind, capabilities=["embeddings"]))


def test_what_the_documentation_shows_of_images_is_what_holds_without_a_word() -> None:
    [shown] = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "engine.md").read_text(), re.DOTALL)
        if "images:" in block
    ]
    told = engine(**yaml.safe_load(shown)["local_engine"])
    assert told.vllm.images == ImageSettings()


def test_every_runtime_has_a_row_in_the_documentation() -> None:
    text = (DOCS / "runtimes.md").read_text()
    assert [kind for kind in PRESETS if f"| `{kind}` |" not in text] == []
