"""`spillway judge`: what the validator says of an answer, by its policies, a schema, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import typer
from google.protobuf.message import Message

from spillway import v1
from spillway.cli import failure, reach
from spillway.cli.inspection import read
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, out, plain, quiet
from spillway.cli.validator import ask
from spillway.errors import SpillwayError

GIVEN = (v1.VERDICT_DECISION_ACCEPT, v1.VERDICT_DECISION_REPAIR)


def run(file: str, *, policies: Sequence[str], schema: str | None, address: str | None, key: str | None) -> int:
    """Print the verdict on the answer in `file`, with its findings; return 0 where it may be given, else 1.

    Without a file, print the policies there are.
    """
    if not file:
        return _list(address, key)
    if not policies and schema is None:
        raise typer.BadParameter("say what the answer is held to: --policy NAME, --schema FILE, or both")
    constraint = None if schema is None else v1.OutputConstraint(json_schema=read(schema))
    answers = [v1.Answer(text=read(file))]
    request = v1.ValidateRequest(constraint=constraint, answers=answers, policies=policies)
    told: v1.ValidateResponse = _asked("Validate", request, address, key)
    verdict = told.verdicts[0]
    _say(v1.VerdictDecision.Name(verdict.decision).removeprefix("VERDICT_DECISION_").lower())
    for finding in verdict.findings:
        _say(f"{finding.rule or finding.path or '/'}: {finding.message}")
    return 0 if verdict.decision in GIVEN else failure.EXIT_FAILED


def _list(address: str | None, key: str | None) -> int:
    told: v1.ListPoliciesResponse = _asked("ListPolicies", v1.ListPoliciesRequest(), address, key)
    for policy in told.policies:
        _say(f"{policy.name}  {policy.description}".rstrip())
        for rule in policy.rules:
            by = f" ({rule.plugin})" if rule.plugin else ""
            _say(f"  {rule.name}{by}: {rule.description}")
    return 0


def _asked(rpc: str, request: Message, address: str | None, key: str | None) -> Any:
    """Return what the validator answers; where it does not, say why and end with the code for that."""
    quiet()
    validator = address or reach.find(None).addresses()["validator"]
    try:
        return asyncio.run(ask(rpc, request, validator, key))
    except SpillwayError as error:
        code = failure.tell(error, Reach(validator), err())
    except KeyboardInterrupt:
        code = failure.EXIT_INTERRUPTED
    raise typer.Exit(code)


def _say(line: str) -> None:
    out().print(plain(line), markup=False, soft_wrap=True)
