"""The commands that look at a text: what is sensitive in it, whether it may be given. As in `main`, imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TextFile = Annotated[str, typer.Argument(metavar="FILE|-", help="A text in UTF-8; - reads it from standard input.")]
ValidatorAddress = Annotated[
    str | None, typer.Option(help="host:port of the validator. Default: the mesh started in this folder.")
]
Key = Annotated[
    str | None, typer.Option(envvar="SPILLWAY_KEY", help="Your key, where one is asked for.", show_envvar=True)
]


def inspect(
    file: TextFile,
    address: ValidatorAddress = None,
    key: Key = None,
) -> None:
    """Say where a text holds cards, accounts, ids, phones, addresses or keys, or signs of prompt injection.

    Ends 0 if nowhere, 1 if somewhere.
    """
    from spillway.cli import inspection as command

    raise typer.Exit(command.run(file, address=address, key=key))


def redact(
    file: TextFile,
    keep: Annotated[Path, typer.Option(help="What the placeholders stand for, as JSON; read first if it is there.")],
    kind: Annotated[list[str] | None, typer.Option(help="Replace this kind alone; may be repeated.")] = None,
    address: ValidatorAddress = None,
    key: Key = None,
) -> None:
    """Print a text with placeholders in the place of what is sensitive in it."""
    from spillway.cli import redaction as command

    raise typer.Exit(command.redact(file, keep=keep, kinds=kind or [], address=address, key=key))


def restore(
    file: TextFile,
    keep: Annotated[Path, typer.Option(help="What the placeholders stand for, as `spillway redact` kept it.")],
    as_json: Annotated[bool, typer.Option("--json", help="The text is JSON: escape what is put into it.")] = False,
) -> None:
    """Print a text with what its placeholders stand for. Nobody is asked."""
    from spillway.cli import redaction as command

    raise typer.Exit(command.restore(file, keep=keep, in_json=as_json))


def judge(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="An answer. Without it: lists the policies.")] = "",
    policy: Annotated[list[str] | None, typer.Option(help="A policy of the validator; may be given again.")] = None,
    schema: Annotated[str | None, typer.Option(metavar="FILE", help="A JSON Schema the answer has to satisfy.")] = None,
    address: ValidatorAddress = None,
    key: Key = None,
) -> None:
    """Say whether an answer may be given, and what is wrong with it. Ends 0 if it may, 1 if not."""
    from spillway.cli import judgement as command

    raise typer.Exit(command.run(file, policies=policy or (), schema=schema, address=address, key=key))
