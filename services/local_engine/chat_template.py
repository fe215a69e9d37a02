"""What a model's chat template takes besides the messages: tools, and how much the model is to think.

Which of them it takes is read off the template itself, not off the model's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes

from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import FieldViolation, SchemaInvalid

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on and off."""
LEVEL = "reasoning_effort"
LEVELS = {
    v1.REASONING_EFFORT_NONE: "none",
    v1.REASONING_EFFORT_LOW: "low",
    v1.REASONING_EFFORT_MEDIUM: "medium",
    v1.REASONING_EFFORT_HIGH: "high",
}


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What a template looks at."""

    variables: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    """Texts that it compares with or writes."""

    @property
    def knows_tools(self) -> bool:
        return "tools" in self.variables

    @property
    def knows_effort(self) -> bool:
        return not self.variables.isdisjoint((*SWITCHES, LEVEL))

    def thinking(self, effort: v1.ReasoningEffort.ValueType) -> dict[str, Any]:
        """Return the variables that say `effort`; a template that only knows on and off thinks at any level.

        Raises ConstraintUnsupported where there is none for it; a model that is not known to think needs none not to.
        """
        if effort == v1.REASONING_EFFORT_UNSPECIFIED:
            return {}
        on, level = effort != v1.REASONING_EFFORT_NONE, LEVELS[effort]
        told: dict[str, Any] = {name: on for name in SWITCHES if name in self.variables}
        if LEVEL in self.variables and (on or level in self.words):
            told[LEVEL] = level
        if not told and (on or self.knows_effort):
            said = "has no setting for it" if on else "has no word for none"
            raise unsupported("spec.reasoning_effort", f"this model's chat template {said}")
        return told


def of(tokenizer: Any, *, tools: bool = False) -> ChatTemplate:
    """Return what the template of a Hugging Face tokenizer looks at; some have one of its own for `tools`."""
    source = getattr(tokenizer, "chat_template", None)
    if isinstance(source, dict):
        source = source.get("tool_use" if tools and "tool_use" in source else "default")
    return ChatTemplate() if source is None else _read(source)


def arguments(spec: v1.GenerationSpec, tokenizer: Any) -> dict[str, Any]:
    """Return what the template is told of `spec` besides its messages.

    Raises ConstraintUnsupported for a field that the template does not know, SchemaInvalid for parameters of a tool.
    """
    if not spec.tools and not spec.reasoning_effort:
        return {}
    template = of(tokenizer, tools=bool(spec.tools))
    told = template.thinking(spec.reasoning_effort)
    if spec.tools:
        if not template.knows_tools:
            raise unsupported("spec.tools", "this model's chat template knows no tools")
        told["tools"] = [_tool(tool, f"spec.tools[{at}].parameters_json_schema") for at, tool in enumerate(spec.tools)]
    return told


def _tool(tool: v1.Tool, place: str) -> dict[str, Any]:
    """Return `tool` in the shape that vLLM's own server gives to templates."""
    parameters = None
    if tool.parameters_json_schema:
        try:
            parameters = json.loads(tool.parameters_json_schema)
        except (ValueError, RecursionError):
            raise _bad_schema(place, "is not JSON") from None
        if not isinstance(parameters, dict):
            raise _bad_schema(place, "is not a JSON object")
    function = {"name": tool.name, "description": tool.description or None, "parameters": parameters}
    return {"type": "function", "function": function}


def _bad_schema(place: str, said: str) -> SchemaInvalid:
    return SchemaInvalid(f"{place}: {said}", fields=[FieldViolation(place, said)])


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, a tag that transformers has added to the language of templates."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@lru_cache(8)
def _read(source: str) -> ChatTemplate:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(extensions=[_Generation, jinja2.ext.loopcontrols])
    try:
        tree = environment.parse(source)
    except jinja2.TemplateError:
        return ChatTemplate()  # what is wrong with it is told when it is used
    words = (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
    return ChatTemplate(frozenset(jinja2.meta.find_undeclared_variables(tree)), frozenset(words))
