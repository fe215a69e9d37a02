"""A trace as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text
from rich.tree import Tree

from spillway.cli.terminal import duration, plain, style_of
from spillway.telemetry import names
from spillway.telemetry.collector import SpanRecord, Value

ENGINE_SPAN = "llm_request"
"""As vLLM names the span of one request."""
_FIRST_TOKEN_S = "gen_ai.latency.time_to_first_token"
"""As vLLM names it."""
_VLLM_INPUT, _VLLM_OUTPUT = "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"


def trace_tree(spans: Sequence[SpanRecord]) -> Tree:
    """Return the spans nested by parent: service, name, what matters of it, start after the root's, duration."""
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    roots = children.get("", [])
    began = roots[0].start_ns if roots else 0
    title = Text.assemble(("trace ", "bold"), (spans[0].trace_id if spans else "empty", "dim"))
    tree = Tree(title, guide_style="dim")
    for root in roots:
        _grow(tree, root, children, began)
    return tree


def _grow(tree: Tree, span: SpanRecord, children: Mapping[str, Sequence[SpanRecord]], began: int) -> None:
    branch = tree.add(label(span, began))
    for child in children.get(span.span_id, ()):
        _grow(branch, child, children, began)


def label(span: SpanRecord, began_ns: int) -> Text:
    """Return one line of the tree."""
    text = Text.assemble(
        (f"{span.service} ", style_of(span.service)),
        (plain(short(span)), "bold red" if span.error else "bold"),
        (f"  {duration(span.duration_ms)}", ""),
        (f" +{duration(max(0.0, (span.start_ns - began_ns) / 1e6))}", "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )
    if span.error:
        text.append(f"  {plain(str(span.attributes.get(names.ERROR_TYPE, span.error)))}", "red")
    if facts := _facts(span.attributes):
        text.append(f"  {', '.join(facts)}", "dim")
    return text


def short(span: SpanRecord) -> str:
    """Return the name without what is said beside it: the contract's package and service, the span's own service."""
    name = span.name.rpartition("/")[2] if span.name.startswith("spillway.v1.") else span.name
    return name.removeprefix(f"{span.service}.")


def _facts(found: Mapping[str, Value]) -> list[str]:
    """Return what matters of a span's attributes, in a few words."""
    facts = []
    if names.ATTEMPT_NUMBER in found:
        facts.append(f"attempt {found[names.ATTEMPT_NUMBER]}")
    if names.TARGET in found:
        facts.append(str(found[names.TARGET]))
    elif found.get(names.MODEL):
        facts.append(str(found[names.MODEL]))
    if found.get(names.SIMULATED):
        facts.append("SIMULATED")
    if names.DECISION in found:
        facts.append(f"verdict {found[names.DECISION]}".lower())
    if isinstance(sure := found.get(names.CONFIDENCE), int | float):
        facts.append(f"confidence {sure:.2f}")
    given = found.get(names.INPUT_TOKENS, found.get(_VLLM_INPUT))
    made = found.get(names.OUTPUT_TOKENS, found.get(_VLLM_OUTPUT))
    if given is not None or made is not None:
        facts.append(f"{'?' if given is None else given} → {'?' if made is None else made} tokens")
    if isinstance(first := found.get(_FIRST_TOKEN_S), int | float):
        facts.append(f"first {duration(first * 1000)}")
    if names.HTTP_STATUS in found:
        facts.append(f"HTTP {found[names.HTTP_STATUS]}")
    if isinstance(left := found.get(names.DEADLINE_LEFT_MS), int | float):
        facts.append(f"{duration(left)} left")
    return [plain(fact) for fact in facts]
