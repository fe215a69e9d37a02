"""Settings of the validator: what it accepts, and what it does not do in its event loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from services.validator.policy_settings import JudgementPoliciesSettings
from spillway.settings import Section, ServerSettings, ServiceSettings


class JudgementSettings(Section):
    """Bounds of what is judged and of what is said."""

    max_answers: int = Field(64, gt=0, description="most answers in one call")
    max_answer_bytes: int = Field(2**20, gt=0, description="longest answer, in UTF-8 bytes")
    max_schema_bytes: int = Field(256 * 2**10, gt=0, description="longest schema or expression, in UTF-8 bytes")
    max_schemas: int = Field(64, gt=0, description="most schemas that a caller brings along with one")
    max_schemas_bytes: int = Field(256 * 2**10, gt=0, description="all of them together, in UTF-8 bytes")
    max_schema_depth: int = Field(200, gt=0, le=200, description="deepest nesting of a schema")
    max_registered_bytes: int = Field(4 * 2**20, gt=0, description="all of `validator.schemas`, in UTF-8 bytes")
    max_depth: int = Field(128, gt=0, le=200, description="deepest nesting of an answer's JSON")
    max_policies: int = Field(16, gt=0, description="most policies that one call may name")
    max_findings: int = Field(32, gt=0, description="most findings told of one answer")
    max_message_chars: int = Field(300, ge=40, description="longest message of a finding, in characters")
    cached_schemas: int = Field(256, gt=0, description="compiled schemas kept, least recently used out first")
    cached_schema_bytes: int = Field(4 * 2**20, gt=0, description="bytes of schema text kept compiled")


class InspectionSettings(Section):
    """Bounds of what is looked through for sensitive data."""

    max_texts: int = Field(1024, gt=0, description="most texts in one call")
    max_bytes: int = Field(4 * 2**20, gt=0, description="all texts of one call, in UTF-8 bytes")
    max_spans: int = Field(20_000, gt=0, description="most sensitive places told of one call")
    inline_chars: int = Field(8 * 2**10, ge=0, description="characters looked through without a worker")
    recogniser: str = Field("", description="who finds names and addresses: patterns, or an entry point; empty: nobody")

    def inline(self, characters: int) -> bool:
        """Whether so many are looked through without a worker: a recogniser is at home in the workers alone."""
        return not self.recogniser and characters <= self.inline_chars


class ConfidenceSettings(Section):
    """The calibrated model, and bounds of what is scored."""

    model_file: Path | None = Field(
        None, description="what `spillway confidence fit` wrote; absent: those of the package alone"
    )
    reload_s: float = Field(5.0, gt=0, description="time between two looks at the file")
    aliases: dict[str, str] = Field({}, description="target -> the target whose sections of the model stand for it")
    max_answers: int = Field(64, gt=0, description="most answers in one call: the answer and its samples")
    max_prompt_bytes: int = Field(4 * 2**20, gt=0, description="prompt of one call, in UTF-8 bytes; its ends are read")
    max_answer_bytes: int = Field(2**20, gt=0, description="schema and answers of one call, in UTF-8 bytes")
    max_tokens: int = Field(65_536, gt=0, description="log probabilities in one call, alternatives counted")
    inline_size: int = Field(16 * 2**10, ge=0, description="bytes and log probabilities read without a thread")


class WorkerSettings(Section):
    """Processes for what would hold up the event loop; a judgement that passes a bound here is ended by the kernel."""

    processes: int = Field(2, gt=0, description="worker processes, started with the service")
    inline_work: int = Field(5_000, ge=0, description="schema nodes times answer nodes judged without a worker")
    inline_accept_work: int = Field(20_000, ge=0, description="the same, of answers that are right")
    inline_bytes: int = Field(64 * 2**10, ge=0, description="UTF-8 bytes of answers judged without a worker")
    time_limit_s: float = Field(2.0, gt=0, description="longest judgement or inspection of one call")
    start_limit_s: float = Field(20.0, gt=0, description="longest start of a worker")
    memory_bytes: int = Field(2**30, ge=2**28, description="address space of one worker")
    max_waiting: int = Field(256, ge=0, description="calls that may wait for a worker")
    plugin_processes: int = Field(1, gt=0, description="worker processes for the rules of plugins, where there are any")


class ValidatorSettings(ServiceSettings):
    """Section `validator` of the configuration."""

    server: ServerSettings = ServerSettings(listen="127.0.0.1:7073")
    schemas: Mapping[str, Path] = Field(
        default_factory=dict, description="JSON files of schemas that every other may refer to, by absolute URI"
    )
    judgement: JudgementSettings = JudgementSettings()
    inspection: InspectionSettings = InspectionSettings()
    confidence: ConfidenceSettings = ConfidenceSettings()
    workers: WorkerSettings = WorkerSettings()
    policies: JudgementPoliciesSettings = Field(
        default={}, description="policies of judgement, by name; see docs/judgement.md"
    )
