"""A process that judges and inspects what may take long.

Started by `workers.py`; speaks frames of pickles with its parent alone.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, BinaryIO

from services.validator.judgement import Judge
from services.validator.sensitive.inspection import see
from services.validator.sensitive.recogniser import load, recognised
from services.validator.sensitive.redaction import redact, restore
from services.validator.settings import JudgementSettings
from spillway.errors import SpillwayError
from spillway.leash import end_with_parent

LENGTH = struct.Struct("!I")
READY, ANSWERED, REFUSED, CRASHED, TOO_MUCH = range(5)
JUDGE, INSPECT, REDACT, RESTORE = range(4)
Looks = Mapping[int, Callable[..., Any]]
LOOKS: Looks = {INSPECT: see, REDACT: redact, RESTORE: restore}


def frame(value: Any) -> bytes:
    """Return `value` as it travels: its length in 4 bytes, then its pickle."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def answer(judge: Judge, body: bytes, looks: Looks = LOOKS) -> tuple[int, Any]:
    """Return what is to be told of the question in `body`."""
    try:
        asked, *arguments = pickle.loads(body)
        if asked in looks:
            return ANSWERED, looks[asked](*arguments)
        constraint, answers, mend = arguments
        return ANSWERED, judge.judge(constraint, answers, mend=mend)
    except SpillwayError as error:
        return REFUSED, (error.reason, error.message, error.fields)
    except (MemoryError, RecursionError):
        return TOO_MUCH, None
    # Whatever it is, the parent is told, and the worker lives on; its text may be the answer's, and stays here.
    except Exception as error:
        return CRASHED, type(error).__name__


def looking(recogniser: str) -> tuple[Looks, Set[str]]:
    """Return how to look at texts with the recogniser of that name, none if it is empty, and the kinds that it adds.

    Raises whatever its maker raises, ValueError if there is none.
    """
    if not recogniser:
        return LOOKS, frozenset()
    found = load(recogniser)
    recognise = partial(recognised, found, recogniser)
    looks: Looks = {
        INSPECT: partial(see, recognise=recognise),
        REDACT: partial(redact, recognise=recognise),
        RESTORE: restore,
    }
    return looks, frozenset(found.kinds)


def serve(questions: BinaryIO, answers: BinaryIO, judge: Judge, looks: Looks = LOOKS) -> None:
    """Answer until the parent closes its end."""
    while header := questions.read(LENGTH.size):
        answers.write(frame(answer(judge, questions.read(LENGTH.unpack(header)[0]), looks)))
        answers.flush()


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    settings, memory_bytes = JudgementSettings.model_validate_json(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the answers
    try:
        looks, kinds = looking(sys.argv[3])
        ready: tuple[int, Any] = READY, kinds
    # A recogniser is anybody's code, and so is what it raises; the parent says so and does not start.
    except Exception as error:
        ready = CRASHED, f"{type(error).__name__}: {error}"
    answers.write(frame(ready))
    answers.flush()
    if ready[0] == READY:
        serve(sys.stdin.buffer, answers, Judge(settings), looks)


if __name__ == "__main__":
    main()
