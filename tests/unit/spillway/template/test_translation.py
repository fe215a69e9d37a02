"""What a file in the template's words says to each service."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from services.local_engine.presets import PRESETS
from services.local_engine.settings import LocalEngineSettings
from services.router.policy_document import opened
from services.router.settings import RouterSettings
from services.validator.settings import ValidatorSettings
from spillway import v1
from spillway.settings import SettingsError, load
from spillway.template import KEYS, TemplateError, translated
from spillway.template.provider import PROVIDERS
from spillway.template.runtime import CAPABILITIES, capabilities
from spillway.template.table import METRICS
from spillway.template.translation import LISTENS

ROOT = Path(__file__).parents[4]
DOCS = ROOT / "docs" / "template.md"
CLOUD = "cloud_engine: {provider: openai, model: gpt-4o}\n"


class Mesh:
    """The settings of all four services, read from one file."""

    def __init__(self, path: Path, environ: dict[str, str] | None = None) -> None:
        environ = environ or {}
        self.router = load("router", RouterSettings, path=path, environ=environ)
        self.engine = load("local_engine", LocalEngineSettings, path=path, environ=environ)
        self.proxy = load("cloud_proxy", CloudProxySettings, path=path, environ=environ)
        self.validator = load("validator", ValidatorSettings, path=path, environ=environ)
        if self.router.policy_file is None:
            opened(self.router).in_force("router.")

    @property
    def targets(self) -> list[str]:
        return [target.name for target in self.router.targets]


def mesh(folder: Path, text: str, **environ: str) -> Mesh:
    file = folder / "mesh.yaml"
    file.write_text(text)
    return Mesh(file, environ)


def mistakes(text: str) -> list[str]:
    with pytest.raises(TemplateError) as raised:
        translated(yaml.safe_load(text))
    return str(raised.value).splitlines()


def documented() -> list[tuple[str, ...]]:
    """Rows of the documented table: key, meaning, what it becomes, example."""
    return re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \| (.+) \| `([^`]+)` \|$", DOCS.read_text(), re.MULTILINE)


def test_the_documented_table_is_the_codes_table() -> None:
    assert [row[:3] for row in documented()] == [(key.path, key.meaning, key.becomes) for key in KEYS]


@pytest.mark.parametrize(("path", "example"), [(row[0], row[3]) for row in documented()])
def test_every_documented_example_runs(tmp_path: Path, path: str, example: str) -> None:
    section, _, key = path.partition(".")
    told: dict[str, Any] = yaml.safe_load(CLOUD)
    stated = yaml.safe_load(example)
    assert key in stated
    told[section] = {**told.get(section, {}), **stated}
    without = copy.deepcopy(told)
    del without[section][key]

    mesh(tmp_path, yaml.safe_dump(told))
    if path not in ("cloud_engine.provider", "cloud_engine.model"):  # there is no mesh without them
        if key == "endpoint" and section == "local_engine":
            without[section] = {}
        assert translated(told) != translated(without)


def test_the_whole_example_becomes_settings_of_all_services() -> None:
    read = Mesh(ROOT / "docs" / "template.yaml")

    assert read.targets == ["local", "openai/gpt-4o-mini", "openai/gpt-4o"]
    local, first, _ = read.router.targets
    assert (local.address, local.context_window, local.quantization_bits) == (read.engine.server.listen, 8192, 16)
    assert (first.address, first.model, first.region) == (read.proxy.server.listen, first.name, "us")
    policy = read.router.policy
    assert (policy.local_context_limit, policy.max_attempts, policy.order) == (4096, 4, ())
    assert (policy.strategy, policy.confidence_threshold) == ("cascade", 0.8)
    assert read.router.ledger is not None
    assert read.router.ledger.retention_days == 90
    assert read.router.validator is not None
    assert read.router.validator.address == read.validator.server.listen
    assert read.router.telemetry.metrics_listen == "127.0.0.1:9464"
    assert read.router.logs.level == read.proxy.logs.level == "info"
    vllm = read.engine.vllm
    assert (read.engine.model, vllm.max_model_len, vllm.max_num_seqs) == ("Qwen/Qwen3-0.6B", 8192, 64)
    assert (vllm.gpu_memory_utilization, vllm.max_num_batched_tokens, vllm.tensor_parallel_size) == (0.85, 4096, 1)
    (provider,) = read.proxy.providers
    assert (provider.name, provider.key_env, provider.idle_s) == ("openai", "OPENAI_API_KEY", 30.0)
    assert (provider.limits.requests_per_minute, provider.limits.tokens_per_minute) == (1000, 200_000)
    assert [model.name for model in provider.models] == ["gpt-4o-mini", "gpt-4o"]


def test_a_file_without_the_templates_keys_is_left_as_it_is() -> None:
    layers = yaml.safe_load((ROOT / "deploy" / "config" / "spillway.yaml").read_text())
    assert translated(layers) == layers
    assert translated({"local_engine": {"model": "a/b", "vllm": {"seed": 1}}, "router": None}) == {
        "local_engine": {"model": "a/b", "vllm": {"seed": 1}},
        "router": None,
    }


def test_what_is_given_is_not_changed() -> None:
    given = yaml.safe_load(CLOUD + "router: {targets: []}\nlocal_engine: {quantization: Q4_K_M}")
    before = copy.deepcopy(given)

    assert translated(given) != given
    assert given == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("routing: {local_context: 5}", "routing.local_context: unknown setting; known: strategy, local_context_limit"),
        ("cloud_engine: {provider: openai, model: a, models: [b]}", "cloud_engine.models: unknown setting; known: "),
        ("observability: {metric: true}", "observability.metric: unknown setting; known: metrics, "),
        ("routing: 5", "routing: expected a mapping, found int"),
        ("routing: {local_context_limit: many}", "routing.local_context_limit: expected a whole number, 1 or more"),
        ("routing: {local_context_limit: on}", "routing.local_context_limit: expected a whole number"),
        ("routing: {fallback_max_retries: -1}", "routing.fallback_max_retries: expected a whole number"),
        ("routing: {escalation_threshold: 80}", "routing.escalation_threshold: expected a number from 0 to 1"),
        ("routing: {strategy: random}", "routing.strategy: expected one of local_first"),
        ("routing: {strategy: hedge, escalation_threshold: 0.8}", "routing.escalation_threshold: goes with strategy"),
        ("local_engine: {quantization: Q9}", "local_engine.quantization: expected a GGUF name such as Q4_K_M"),
        ("local_engine: {gpu_memory_utilization: 2}", "local_engine.gpu_memory_utilization: expected a number above 0"),
        ("local_engine: {max_model_len: 9, context_length: 9}", "local_engine.max_model_len: is the same as"),
        ("local_engine: {endpoint: 'localhost:11434', model: a}", "local_engine.endpoint: expected http://"),
        ("local_engine: {endpoint: 'http://localhost:9/api/x'}", "local_engine.endpoint: expected the runtime's root"),
        ("local_engine: {endpoint: 'http://8.8.8.8', model: a}", "local_engine.endpoint: is not on the site"),
        (
            "local_engine: {endpoint: 'http://localhost:11434', model: a, gpu_memory_utilization: 0.5}",
            "local_engine.gpu_memory_utilization: is for vLLM",
        ),
        ("cloud_engine: {model: gpt-4o}", "cloud_engine.provider: is missing"),
        ("cloud_engine: {provider: openai}", "cloud_engine.model: is missing"),
        ("cloud_engine: {provider: bedrock, model: a}", "cloud_engine.provider: bedrock has a wire format of its"),
        ("cloud_engine: {provider: azure, model: a}", "cloud_engine.endpoint: is missing: azure has an address of"),
        ("cloud_engine: {provider: acme, model: a}", "cloud_engine.provider: unknown provider; known: openai, "),
        ("cloud_engine: {provider: openai, model: 'a b'}", "cloud_engine.model: is no model's name"),
        (
            "cloud_engine: {provider: openai, model: gpt-4o, fallback_models: [gpt-4o-mini, command-r]}",
            "cloud_engine.fallback_models[1]: cohere has a wire format of its own",
        ),
        (
            "cloud_engine: {provider: openai, model: gpt-4o, fallback_models: [azure/gpt-4o]}",
            "cloud_engine.fallback_models[0]: azure has an address of your own",
        ),
        ("cloud_engine: {provider: openai, model: a, fallback_models: b}", "cloud_engine.fallback_models: expected a"),
        ("cloud_engine: {provider: openai, model: a, rate_limit: 5}", "cloud_engine.rate_limit: expected a rate as in"),
        ("cloud_engine: {provider: openai, model: a, timeout: soon}", "cloud_engine.timeout: expected a time above 0"),
        ("cloud_engine: {provider: openai, model: a, timeout: 0}", "cloud_engine.timeout: expected a time above 0"),
        ("cloud_engine: {provider: openai, model: a, api_key: sk-secret}", "cloud_engine.api_key: keys do not stand"),
        ("observability: {metrics: [nonsense]}", "observability.metrics: expected true, false, or a list of: "),
        ("observability: {log_level: loud}", "observability.log_level: expected one of debug, info"),
        ("observability: {retention_days: 0}", "observability.retention_days: expected a whole number"),
    ],
)
def test_a_mistake_is_told_with_the_templates_own_path_and_once(text: str, told: str) -> None:
    found = mistakes(text)

    assert [line for line in found if line.startswith(told)] == found
    assert len(found) == 1
    assert "sk-secret" not in found[0]


def test_all_mistakes_are_told_at_once_and_as_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        mesh(tmp_path, "routing: {local_context_limit: 0, nonsense: 1}\nobservability: {metrics: 5}\n" + CLOUD)
    assert str(raised.value).count("\n") == 2
    with pytest.raises(SettingsError, match=r"unknown section rooting; known: .*routing"):
        mesh(tmp_path, "rooting: {}")


ODD: tuple[Any, ...] = (True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", " ", "x", "http://[", [], [{}], [[]])


@pytest.mark.parametrize("path", [key.path for key in KEYS])
def test_whatever_stands_at_a_key_it_is_taken_or_refused_with_its_path(path: str) -> None:
    section, _, name = path.partition(".")
    for value in (*ODD, {}, {"a": 1}, {1: {}}):
        told: dict[str, Any] = {"cloud_engine": {"provider": "openai", "model": "gpt-4o"}}
        told.setdefault(section, {})[name] = value
        try:
            translated(told)
        except TemplateError as error:
            assert all(line.startswith(path) for line in str(error).splitlines())


def test_ours_win_over_a_key_of_the_template_that_says_the_same(tmp_path: Path) -> None:
    text = """
    routing: {local_context_limit: 100, strategy: cascade}
    local_engine: {max_num_seqs: 3, gpu_memory_utilization: 0.5, vllm: {max_num_seqs: 7}}
    cloud_engine: {provider: openai, model: gpt-4o, rate_limit: 60/min}
    observability: {log_level: debug, retention_days: 5, metrics: true}
    router:
      policy: {local_context_limit: 200}
      ledger: null
      validator: null
      telemetry: {metrics_listen: "0.0.0.0:9000"}
    shared: {logs: {level: error}}
    """
    read = mesh(tmp_path, text, SPILLWAY_ROUTER__POLICY__STRATEGY="direct")

    assert (read.router.policy.local_context_limit, read.router.policy.strategy) == (200, "direct")
    assert (read.engine.vllm.max_num_seqs, read.engine.vllm.gpu_memory_utilization) == (7, 0.5)
    assert (read.router.ledger, read.router.validator, read.router.logs.level) == (None, None, "error")
    assert read.router.telemetry.metrics_listen == "0.0.0.0:9000"


def test_what_our_lists_name_stays_and_the_rest_comes_behind(tmp_path: Path) -> None:
    text = """
    cloud_engine: {provider: openai, model: gpt-4o, fallback_models: [gpt-4o-mini]}
    router:
      targets:
        - {name: openai/gpt-4o-mini, kind: cloud, address: "proxy:1", region: eu}
        - {name: engine, kind: local, address: "engine:1"}
    cloud_proxy:
      providers: [{name: openai, region: eu, models: [{name: gpt-4o}, {name: gpt-4o-mini}]}]
    """
    read = mesh(tmp_path, text)

    assert read.targets == ["openai/gpt-4o-mini", "engine", "openai/gpt-4o"]
    assert read.router.targets[0].region == "eu"
    assert [provider.region for provider in read.proxy.providers] == ["eu"]
    assert read.router.validator is None


def test_beside_a_policy_file_the_template_makes_providers_and_states_no_policy(tmp_path: Path) -> None:
    text = CLOUD + "router: {policy_file: policy.yaml}\nobservability: {retention_days: 3}\n"
    read = mesh(tmp_path, text)

    assert read.router.targets == ()
    assert [provider.name for provider in read.proxy.providers] == ["openai"]
    told = mistakes(text + "routing: {local_context_limit: 5, strategy: cloud_first}")
    assert [line.partition(":")[0] for line in told] == ["routing.strategy", "routing.local_context_limit"]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("local_first", {}),
        ("cost-optimized", {}),
        ("Cloud_First", {"order": ("cloud", "local")}),
        ("local_only", {"residency": "local_only"}),
        ("cloud_only", {"order": ("cloud",)}),
        ("latency_optimized", {"strategy": "hedge"}),
        ("draft_verify", {"strategy": "draft_verify"}),
    ],
)
def test_a_strategy_becomes_a_policy(tmp_path: Path, strategy: str, settings: dict[str, Any]) -> None:
    read = mesh(tmp_path, CLOUD + f"routing: {{strategy: {strategy}}}")

    assert {name: value for name, value in read.router.policy.model_dump().items() if name in settings} == settings
    assert read.router.policy.model_fields_set == set(settings)


@pytest.mark.parametrize(
    ("endpoint", "kind", "address"),
    [
        ("http://localhost:11434", "ollama", "http://localhost:11434"),
        ("http://localhost:11434/", "ollama", "http://localhost:11434"),
        ("http://10.0.0.5:5000/api/generate", "ollama", "http://10.0.0.5:5000"),
        ("http://studio:1234/v1", "lm-studio", "http://studio:1234"),
        ("http://localhost:8080", "openai", "http://localhost:8080"),
        ("https://gpu.example.com/v1/chat/completions", "openai", "https://gpu.example.com"),
        ("http://docker:12434/engines/v1", "openai", "http://docker:12434/engines"),
    ],
)
def test_an_endpoint_is_a_runtime_that_the_local_engine_stands_before(
    tmp_path: Path, endpoint: str, kind: str, address: str
) -> None:
    engine = f"{{endpoint: '{endpoint}', model: 'llama3.1:8b', quantization: Q3_K_M, max_num_seqs: 2}}"
    read = mesh(tmp_path, CLOUD + f"local_engine: {engine}")

    local = read.router.targets[0]
    assert (local.kind, local.model, local.region) == ("local", "", "site")
    assert (local.address, local.quantization_bits, local.concurrency) == (read.engine.server.listen, 3, 2)
    runtime = read.engine.runtime
    assert (runtime.kind, runtime.address, runtime.model) == (kind, address, "llama3.1:8b")
    assert [provider.name for provider in read.proxy.providers] == ["openai"]


def test_a_runtime_is_told_the_context_that_the_template_names(tmp_path: Path) -> None:
    ollama = mesh(tmp_path, CLOUD + "local_engine: {endpoint: 'http://localhost:11434', context_length: 8192}")
    assert (ollama.engine.runtime.num_ctx, ollama.router.targets[0].context_window) == (8192, 8192)
    other = mesh(tmp_path, CLOUD + "local_engine: {endpoint: 'http://localhost:8000', context_length: 8192}")
    assert (other.engine.runtime.num_ctx, other.engine.runtime.context_window) == (None, 8192)


def test_ours_say_which_runtime_it_is_where_its_port_does_not(tmp_path: Path) -> None:
    text = "local_engine: {endpoint: 'http://localhost:8080', runtime: {kind: llama-cpp}}"
    read = mesh(tmp_path, CLOUD + text)
    assert (read.engine.runtime.kind, read.engine.runtime.address) == ("llama-cpp", "http://localhost:8080")
    assert "grammar" in read.router.targets[0].capabilities


def test_a_target_has_the_capabilities_of_its_runtime() -> None:
    told = {preset.name: {v1.Capability.Name(one) for one in preset.capabilities} for preset in PRESETS.values()}
    ours = {kind: {f"CAPABILITY_{name.upper()}" for name in names} for kind, names in CAPABILITIES.items()}
    assert {kind: names for kind, names in ours.items() if kind != "vllm"} == told
    stated = {"runtime": {"kind": "ollama", "capabilities": ["tools"]}}
    assert capabilities(stated) == ["tools"]


def test_fallback_models_keep_their_order_and_find_their_providers(tmp_path: Path) -> None:
    chain = "[gpt-4o-mini, mistral/mistral-large-latest, gemini-2.5-flash, claude-sonnet-4-5, gpt-4o]"
    text = f"cloud_engine: {{provider: openai, model: gpt-4o, fallback_models: {chain}, rate_limit: 60/min}}"
    read = mesh(tmp_path, text)

    assert read.targets == [
        "local",
        "openai/gpt-4o",
        "openai/gpt-4o-mini",
        "mistral/mistral-large-latest",
        "gemini/gemini-2.5-flash",
        "anthropic/claude-sonnet-4-5",
    ]
    assert [provider.kind for provider in read.proxy.providers] == ["openai", "mistral", "gemini", "anthropic"]
    assert [provider.limits.requests_per_minute for provider in read.proxy.providers] == [60, None, None, None]
    assert [provider.key_env for provider in read.proxy.providers] == [
        "OPENAI_API_KEY",
        "MISTRAL_API_KEY",
        "GEMINI_API_KEY",
        "ANTHROPIC_API_KEY",
    ]


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_provider_known_by_name_is_a_preset_whose_models_can_do_what_the_targets_say(
    tmp_path: Path, name: str
) -> None:
    endpoint = ", endpoint: 'https://mine.example.com/v1'" if PROVIDERS[name].elsewhere else ""
    read = mesh(tmp_path, f"cloud_engine: {{provider: {name}, model: m{endpoint}}}")

    provider, target = read.proxy.providers[0], read.router.targets[1]
    alone = ProviderSettings.model_validate(
        {"name": name, "preset": name, "base_url": provider.base_url, "region": "r", "models": [{"name": "m"}]}
    )
    assert (provider.preset, provider.kind, provider.key_env) == (name, alone.kind, PROVIDERS[name].key_env)
    assert provider.models[0].capabilities == alone.models[0].capabilities == set(target.capabilities)


def test_at_an_endpoint_a_wire_format_stays_the_providers_and_openai_is_any_that_speaks_it(tmp_path: Path) -> None:
    elsewhere = "model: m, endpoint: 'http://llm.example.com/v1'}"
    read = [mesh(tmp_path, f"cloud_engine: {{provider: {name}, {elsewhere}") for name in ("mistral", "openai", "acme")]

    providers = [one.proxy.providers[0] for one in read]
    assert [provider.kind for provider in providers] == ["mistral", "openai", "openai"]
    assert [provider.preset for provider in providers] == ["mistral", None, None]
    assert {provider.base_url for provider in providers} == {"http://llm.example.com/v1"}


def test_only_models_known_to_tell_log_probabilities_are_asked_for_them(tmp_path: Path) -> None:
    text = "cloud_engine: {provider: openai, model: gpt-4o, fallback_models: [o3-mini, mistral/mistral-small-latest]}"
    read = mesh(tmp_path, text)

    assert ["logprobs" in target.capabilities for target in read.router.targets] == [True, True, False, False]


def test_a_resellers_models_are_all_its_own(tmp_path: Path) -> None:
    text = "cloud_engine: {provider: openrouter, model: anthropic/claude-sonnet-4, fallback_models: [openai/gpt-4o]}"
    read = mesh(tmp_path, text)

    assert read.targets[1:] == ["openrouter/anthropic/claude-sonnet-4", "openrouter/openai/gpt-4o"]
    assert read.proxy.providers[0].region == "unknown"


def test_a_providers_usual_key_is_not_sent_to_another_address(tmp_path: Path) -> None:
    elsewhere = "cloud_engine: {provider: openai, model: gpt-4o, endpoint: 'http://llm.example.com/v1'"

    assert mesh(tmp_path, elsewhere + "}").proxy.providers[0].key_env is None
    assert mesh(tmp_path, elsewhere + ", api_key: '${OPENAI_API_KEY}'}").proxy.providers[0].key_env == "OPENAI_API_KEY"
    assert mesh(tmp_path, elsewhere + ", api_key_env: MINE}").proxy.providers[0].key_env == "MINE"


def test_targets_are_where_the_file_says_that_services_listen(tmp_path: Path) -> None:
    text = CLOUD + "local_engine: {server: {listen: '0.0.0.0:81'}}\ncloud_proxy: {server: {listen: 'proxy:82'}}"
    read = mesh(tmp_path, text)

    assert [target.address for target in read.router.targets] == ["127.0.0.1:81", "proxy:82"]


def test_observability_alone_makes_no_targets() -> None:
    assert translated({"observability": {"metrics": True, "metrics_port": 1}}) == {
        "router": {"telemetry": {"metrics_listen": "127.0.0.1:1"}}
    }
    assert translated({"observability": {"metrics": False, "metrics_port": 1}}) == {}


def test_every_metric_the_router_has_may_be_asked_for() -> None:
    documented = re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)

    assert set(documented) == METRICS


def test_the_services_places_are_their_defaults() -> None:
    assert {
        "local_engine": LocalEngineSettings().server.listen,
        "cloud_proxy": CloudProxySettings.model_fields["server"].default.listen,
        "validator": ValidatorSettings().server.listen,
    } == LISTENS
