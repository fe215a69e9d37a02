"""`spillway redact` and `spillway restore`: placeholders in the place of what is sensitive in a text, and back."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from spillway import v1
from spillway.cli import failure, inspection, reach
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, quiet
from spillway.cli.validator import ask
from spillway.errors import SpillwayError
from spillway.placeholders import Placeholder, restored, well_formed


def redact(file: str, *, keep: Path, kinds: list[str], address: str | None, key: str | None) -> int:
    """Print the text of `file` with placeholders; what they stand for is kept in `keep`, beside what stands there."""
    quiet()
    request = v1.RedactRequest(texts=[inspection.read(file)], kinds=kinds)
    request.placeholders.extend(v1.Placeholder(**asdict(one)) for one in _kept(keep))
    validator = address or reach.find(None).addresses()["validator"]
    try:
        told: v1.RedactResponse = asyncio.run(ask("Redact", request, validator, key))
    except SpillwayError as error:
        return failure.tell(error, Reach(validator), err())
    except KeyboardInterrupt:
        return failure.EXIT_INTERRUPTED
    _keep(keep, [Placeholder(one.token, one.original, one.kind) for one in told.placeholders])
    sys.stdout.write(told.texts[0])
    return 0


def restore(file: str, *, keep: Path, in_json: bool) -> int:
    """Print the text of `file` with what its placeholders stand for by `keep`. Asks nobody."""
    quiet()
    if not keep.exists():
        raise typer.BadParameter(f"{keep} does not exist")
    sys.stdout.write(restored(inspection.read(file), _kept(keep), json=in_json))
    return 0


def _kept(keep: Path) -> list[Placeholder]:
    """Raises typer.BadParameter where `keep` is there and holds something else."""
    if not keep.exists():
        return []
    try:
        kept = [Placeholder(one["token"], one["original"], one["kind"]) for one in json.loads(keep.read_bytes())]
    except OSError as error:
        raise typer.BadParameter(f"cannot read {keep}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise typer.BadParameter(f"{keep} holds no placeholders") from None
    if not all(isinstance(one.original, str) and well_formed(one.token) for one in kept):
        raise typer.BadParameter(f"{keep} holds no placeholders")
    return kept


def _keep(keep: Path, placeholders: list[Placeholder]) -> None:
    """Write them for nobody else to read. Raises typer.BadParameter where that is not possible."""
    try:
        with os.fdopen(os.open(keep, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # one that was there keeps the mode it had
                os.fchmod(file.fileno(), 0o600)
            json.dump([asdict(one) for one in placeholders], file, ensure_ascii=False, indent=1)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {keep}: {error.strerror}") from None
