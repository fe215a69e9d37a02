"""Which vLLM this is, and what it lacks of what the engine and the contract need: looked for, not read off a number.

Nothing is imported from vLLM when this module is: an older one, or none at all, is told in words.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from services.local_engine.decoding import FIELDS, SAMPLING_FIELDS
from spillway.doctor.diagnosis import OLDEST_VLLM
from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)

Modules = Callable[[str], Any]
"""Imports a module by its name."""

TESTED = "0.32.0"
"""The newest version that the tests have seen."""
LONGEST_WHY = 300

GENERATE = ("trace_headers", "priority", "lora_request", "reasoning_ended", "reasoning_parser_kwargs")
NEEDED = (
    ("vllm.v1.engine.async_llm", "AsyncLLM.from_engine_args", ("stat_loggers",)),
    ("vllm.v1.engine.async_llm", "AsyncLLM.generate", GENERATE),
    ("vllm.v1.engine.async_llm", "AsyncLLM.encode", ("trace_headers", "priority")),
    ("vllm.sampling_params", "SamplingParams", ("output_kind", "stream_interval", "structured_outputs", "skip_clone")),
    ("vllm.sampling_params", "RequestOutputKind", ()),
    ("vllm.sampling_params", "StructuredOutputsParams", ()),
    ("vllm.sampling_params", "check_json_nesting", ()),
    ("vllm.engine.arg_utils", "AsyncEngineArgs", ()),
    ("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest", ()),
    ("vllm.exceptions", "VLLMClientError", ()),
    ("vllm.inputs.engine", "tokens_input", ()),
    ("vllm.lora.request", "LoRARequest", ()),
    ("vllm.model_executor.model_loader", "get_model_cls", ()),
    ("vllm.multimodal.image", "convert_image_mode", ()),
    ("vllm.multimodal.image", "normalize_image", ()),
    ("vllm.parser", "ParserManager.get_parser", ()),
    ("vllm.parser.abstract_parser", "DelegatingParser", ()),
    ("vllm.parser.abstract_parser", "Parser", ()),
    ("vllm.pooling_params", "PoolingParams", ()),
    ("vllm.reasoning", "ReasoningParserManager.list_registered", ()),
    ("vllm.renderers.chat_utils", "make_tool_call_id", ()),
    ("vllm.renderers.hf", "resolve_chat_template", ()),
    ("vllm.renderers.hf", "resolve_chat_template_content_format", ()),
    ("vllm.tool_parsers", "ToolParserManager.list_registered", ()),
    ("vllm.v1.engine.exceptions", "EngineDeadError", ()),
    ("vllm.v1.sample.logits_processor", "AdapterLogitsProcessor", ()),
    ("vllm.v1.structured_output.backend_xgrammar", "has_xgrammar_unsupported_json_features", ()),
)
"""What the engine cannot do without: a module, a name in it, and what that has to have or to take."""
GUIDES = {
    "json": "spec.constraint.json_schema",
    "json_object": "spec.constraint.json_object",
    "regex": "spec.constraint.regex",
    "grammar": "spec.constraint.grammar",
    "choice": "spec.constraint.choices",
}
"""Fields of vLLM's StructuredOutputsParams -> the field of the contract that they serve."""


@dataclass(frozen=True, slots=True)
class Vllm:
    """A vLLM that the engine can use."""

    version: str
    build: str
    """What it computes on: cpu, cuda, rocm, xpu, ..."""
    device: str
    torch: str
    cuda: str
    """The version torch was built for; empty: none."""
    lacks: tuple[str, ...]
    """Fields of the contract that it knows nothing of."""

    @property
    def tested(self) -> bool:
        """Whether it is no newer than what the tests have seen."""
        return _number(self.version) <= _number(TESTED)

    def __repr__(self) -> str:
        return f"<Vllm {self.version} {self.build}{' lacks ' + ', '.join(self.lacks) if self.lacks else ''}>"


def probe(modules: Modules = importlib.import_module) -> Vllm:
    """Import vLLM and look at it; takes seconds. Raises SettingsError, in words, where the engine cannot use it."""
    try:
        vllm, torch = modules("vllm"), modules("torch")
    except Exception as error:  # of a library beside it that does not fit, any
        raise SettingsError(f"local_engine: {_unimportable(error)}") from error
    version = str(getattr(vllm, "__version__", "of no version"))
    missing = list(_missing(modules))
    if missing:
        raise SettingsError(
            f"local_engine: found vLLM {version}, the engine needs at least {OLDEST_VLLM} (tested with {TESTED}): "
            f"it has no {', '.join(missing[:3])}"
        )
    platform = modules("vllm.platforms").current_platform
    if not platform.device_type:
        raise SettingsError(
            f"local_engine: vLLM {version} finds nothing here that it can compute on: a build for GPUs needs a driver "
            "that works; `spillway doctor` tells more"
        )
    torch_version = getattr(torch, "version", None)
    return Vllm(
        version=version,
        build=str(platform.device_type),
        device=_device(platform),
        torch=str(torch.__version__),
        cuda=str(getattr(torch_version, "cuda", None) or ""),
        lacks=tuple(_lacks(modules("vllm.sampling_params"))),
    )


def tell(found: Vllm) -> None:
    """Log which vLLM this is."""
    log.info(
        "engine.vllm",
        version=found.version,
        build=found.build,
        device=found.device,
        torch=found.torch,
        cuda=found.cuda or None,
        lacks=list(found.lacks),
    )
    if not found.tested:
        log.warning("engine.vllm_untested", version=found.version, tested=TESTED)


def accept(arguments: Iterable[str], engine_args: type, version: str) -> None:
    """Raise SettingsError where `engine_args`, vLLM's AsyncEngineArgs, take not all of the named `arguments`."""
    unknown = [name for name in arguments if not _has(engine_args, name)]
    if unknown:
        raise SettingsError(f"local_engine.vllm: vLLM {version} knows no {', '.join(unknown)}: leave that setting out")


def _missing(modules: Modules) -> Iterator[str]:
    for module, path, names in NEEDED:
        try:
            found = modules(module)
            for name in path.split("."):
                found = getattr(found, name)
        except (ImportError, AttributeError):
            yield f"{module}.{path}"
            continue
        yield from (f"{path}({name})" for name in names if not _has(found, name))


def _lacks(sampling: Any) -> Iterator[str]:
    for name in SAMPLING_FIELDS:
        if not _has(sampling.SamplingParams, name):
            yield FIELDS[name]
    for name, field in GUIDES.items():
        if not _has(sampling.StructuredOutputsParams, name):
            yield field


def _has(found: Any, name: str) -> bool:
    """Whether a class has the field `name`, or a function takes a parameter of that name."""
    if isinstance(found, type):
        return name in (*getattr(found, "__struct_fields__", ()), *getattr(found, "__dataclass_fields__", ()))
    return name in inspect.signature(found).parameters


def _unimportable(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in ("vllm", "torch"):
        return f"{error.name} is not installed beside it: install it, or set local_engine.runtime to a runtime you have"
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"vLLM cannot be imported: {why[:LONGEST_WHY]}"


def _device(platform: Any) -> str:
    try:
        return str(platform.get_device_name())
    # It asks a driver, each with errors of its own, and no name is worth a start: what went wrong is told instead.
    except Exception as error:
        return f"unknown ({type(error).__name__})"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
