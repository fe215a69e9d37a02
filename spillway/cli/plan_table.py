"""A router's plan as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli.terminal import money, plain, word


def plan_table(plan: v1.Plan) -> Group:
    """Return every candidate, taken or left out, with its score and the reasons."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", width=1)
    table.add_column("target", no_wrap=True)
    table.add_column("where", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("about", justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    _add(table, plan, "")
    facts = [
        f"delivery {word(v1.DeliveryMode, plan.delivery)}",
        f"validation {word(v1.Validation, plan.validation)}",
        f"residency {word(v1.Residency, plan.data_policy.residency)}",
    ]
    if plan.data_policy.sensitivity:
        facts.append(f"sensitivity {word(v1.Sensitivity, plan.data_policy.sensitivity)}")
    if plan.data_policy.HasField("max_retention_days"):
        facts.append(f"kept {plan.data_policy.max_retention_days} days at most")
    if plan.HasField("prompt_tokens"):
        facts.append(f"about {plan.prompt_tokens} prompt tokens")
    facts += [
        f"{money(left.left_nano_usd)} of {money(left.cap_nano_usd)} left this {left.period}" for left in plan.budget
    ]
    facts.append(f"policy revision {plan.policy_revision or '?'}")
    return Group(table, Text(plain(" · ".join(facts)), style="dim"))


def _add(table: Table, plan: v1.Plan, indent: str) -> None:
    """Add the candidates of `plan`, and below each router those of its own plan."""
    place = 0
    for candidate in plan.candidates:
        place += candidate.taken
        table.add_row(
            Text(str(place), style="bold green") if candidate.taken else Text("✗", style="red"),
            Text(indent + plain(candidate.target), style="bold" if candidate.taken else "dim"),
            Text(plain(f"{word(v1.TargetKind, candidate.kind)}, {candidate.region or '?'}"), style="dim"),
            f"{candidate.score:.0f}" if candidate.HasField("score") else "-",
            money(candidate.estimated_cost_nano_usd if candidate.HasField("estimated_cost_nano_usd") else None),
            Text(plain("; ".join(candidate.reasons))),
        )
        _add(table, candidate.plan, indent + "  ")
