"""The configuration that `spillway up` writes: one readable file for the whole mesh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PROVIDER_KEY = "OPENAI_API_KEY"
"""Environment variable whose presence makes the cloud the real one."""
CLOUD_MODEL = "gpt-4o-mini"
CLOUD_TARGET = f"openai/{CLOUD_MODEL}"
LOCAL_TARGET = "local"
BUNDLED_CONTEXT = 2048
"""Tokens that the bundled model can take, prompt and answer together."""

_HEAD = """\
# The mesh on this machine. `spillway up` writes this file anew at every start: to change something, copy it, edit the
# copy, and start with `spillway up --config COPY`. Every setting can also come from the environment, for example
# SPILLWAY_ROUTER__POLICY__RESIDENCY=local_only. What `spillway up` embeds is told to the services that way: the Valkey
# (shared.store.url), the collector of traces (shared.telemetry.otlp_endpoint), the model (local_engine.model).

shared:
  logs: {{level: info, format: json}}
  telemetry: {{export_interval_s: 0.5}}

router:
  server: {{listen: "{router}", drain_s: 5}}
  http: {{listen: "{openai_edge}"}}  # OpenAI-compatible: http://{openai_edge}/v1
  targets:
    - name: {local_target}
      kind: local
      address: "{local_engine}"
{context_window}\
      capabilities: [json_schema, json_object, regex, grammar, choices, logprobs, prompt_logprobs, text_input,
        token_input, prefill]
      price: {{input_usd_per_mtok: 0, output_usd_per_mtok: 0}}
    - name: {cloud_target}
      kind: cloud
      address: "{cloud_proxy}"
      model: {cloud_target}
      region: us
      context_window: 128000
      capabilities: [json_schema, json_object, tools, text_input]
  validator: {{address: "{validator}"}}
  ledger: {{url: "sqlite:///{ledger}"}}
  cache: {{enabled: true, by_default: false}}  # `spillway ask --cache use`

local_engine:
  server: {{listen: "{local_engine}", drain_s: 5}}

validator:
  server: {{listen: "{validator}", drain_s: 5}}
{confidence}
cloud_proxy:
  server: {{listen: "{cloud_proxy}", drain_s: 5}}
  audit: {{folder: "{audit}"}}  # `spillway audit`; records wait here while the store is away
  providers:
"""

_CONFIDENCE = """\
  confidence: {{aliases: {{{local_target}: bundled}}}}  # how sure its answers are was measured: docs/confidence.md
"""

_REAL = """\
    - name: openai
      base_url: https://api.openai.com/v1
      region: us
      key_env: OPENAI_API_KEY
      models: [{{name: {model}, context_window: 128000}}]
"""

_SIMULATED = """\
    # SIMULATED: without OPENAI_API_KEY in the environment, the cloud is a program on this machine that speaks OpenAI's
    # wire format. Nothing leaves the machine.
    - name: openai
      base_url: http://{simulator}/v1
      simulated: true
      price_list: openai  # what the real one would charge
      region: us
      models: [{{name: {model}, context_window: 128000}}]
"""


def default(addresses: Mapping[str, str], *, ledger: str, bundled: bool) -> str:
    """Return the YAML of a mesh with one local engine and one cloud model.

    `addresses` is service -> host:port, `openai_edge` for the router's second listener; the cloud is simulated where it
    names an `openai_simulator`. `bundled`: the local model is the bundled one, whose context is known.
    """
    simulator = addresses.get("openai_simulator")
    head = _HEAD.format(
        **addresses,
        local_target=LOCAL_TARGET,
        cloud_target=CLOUD_TARGET,
        confidence=_CONFIDENCE.format(local_target=LOCAL_TARGET) if bundled else "",
        context_window=f"      context_window: {BUNDLED_CONTEXT}\n" if bundled else "",
        ledger=ledger,
        audit=Path(ledger).parent / "audit",
    )
    return head + (_SIMULATED if simulator else _REAL).format(simulator=simulator, model=CLOUD_MODEL)
