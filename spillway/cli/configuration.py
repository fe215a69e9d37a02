"""The configuration that `spillway up` writes: one readable file for the whole mesh."""

from __future__ import annotations

from collections.abc import Mapping

PROVIDER_KEY = "OPENAI_API_KEY"
CLOUD_MODEL = "gpt-4o-mini"
CLOUD_TARGET = f"openai/{CLOUD_MODEL}"
LOCAL_TARGET = "local"
LOCAL_CONTEXT = 2048

_HEAD = """\
# The mesh on this machine. `spillway up` writes this file anew at every start: to change something, copy it, edit the
# copy, and start with `spillway up --config COPY`. Every setting can also come from the environment, for example
# SPILLWAY_ROUTER__POLICY__RESIDENCY=local_only. What `spillway up` embeds comes that way: the Valkey (store.url), the
# collector of traces (telemetry.otlp_endpoint) and the local model, if you named one (local_engine.model).

shared:
  logs: {{level: info, format: json}}

router:
  server: {{listen: "{router}", drain_s: 5}}
  targets:
    - name: {local_target}
      kind: local
      address: {local_engine}
      context_window: {context}
      capabilities: [json_schema, json_object, regex, grammar, choices, logprobs, text_input, token_input]
      price: {{input_usd_per_mtok: 0, output_usd_per_mtok: 0}}
    - name: {cloud_target}
      kind: cloud
      address: {cloud_proxy}
      model: {cloud_target}
      region: us
      context_window: 128000
      capabilities: [json_schema, json_object, tools, images, logprobs]
  policy:
    local_context_limit: {context_limit}
  validator: {{address: "{validator}"}}
  ledger: {{url: "sqlite+aiosqlite:///{ledger}"}}

local_engine:
  server: {{listen: "{local_engine}", drain_s: 5}}
  context_window: {context}

validator:
  server: {{listen: "{validator}", drain_s: 5}}

cloud_proxy:
  server: {{listen: "{cloud_proxy}", drain_s: 5}}
"""

_REAL = """\
  # The provider's key is read from the environment variable OPENAI_API_KEY.
"""

_SIMULATED = """\
  # SIMULATED: without OPENAI_API_KEY in the environment, the cloud is a program on this machine that speaks OpenAI's
  # wire format. Nothing leaves the machine.
"""


def default(addresses: Mapping[str, str], *, ledger: str) -> str:
    """Return the YAML of a mesh with one local engine and one cloud model; simulated where a simulator has a place."""
    simulator = addresses.get("openai_simulator")
    head = _HEAD.format(
        **addresses,
        local_target=LOCAL_TARGET,
        cloud_target=CLOUD_TARGET,
        context=LOCAL_CONTEXT,
        context_limit=LOCAL_CONTEXT * 3 // 4,
        ledger=ledger,
    )
    return head + (_SIMULATED if simulator else _REAL) + providers(simulator)


def providers(simulator: str | None) -> str:
    return ""
