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

from services.validator.duties import Duties
from services.validator.judgement import Judge
from services.validator.rules.plugin import Plugin, PluginSettings, PluginWrong, loaded
from services.validator.rules.rule import Form, Rule, RuleSettings
from services.validator.rules.table import made
from services.validator.sensitive.inspection import KINDS, see
from services.validator.sensitive.recogniser import load, recognised
from services.validator.sensitive.redaction import redact, restore
from spillway.errors import SpillwayError
from spillway.leash import end_with_parent

LENGTH = struct.Struct("!I")
READY, ANSWERED, REFUSED, CRASHED, TOO_MUCH = range(5)
JUDGE, INSPECT, REDACT, RESTORE, PREPARE, RULE = range(6)
SAMPLE = "A text with letters enough for any rule."
Looks = Mapping[int, Callable[..., Any]]
LOOKS: Looks = {INSPECT: see, REDACT: redact, RESTORE: restore}


def frame(value: Any) -> bytes:
    """Return `value` as it travels: its length in 4 bytes, then its pickle."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def answer(judge: Judge, body: bytes, looks: Looks = LOOKS, rules: list[Rule] | None = None) -> tuple[int, Any]:
    """Return what is to be told of the question in `body`; `rules` are those that were prepared, in their order."""
    rules = [] if rules is None else rules
    try:
        asked, *arguments = pickle.loads(body)
        if asked in looks:
            return ANSWERED, looks[asked](*arguments)
        if asked == PREPARE:
            return ANSWERED, prepare(rules, *arguments)
        if asked == RULE:
            place, texts = arguments
            return ANSWERED, [rules[place].findings(text) for text in texts]
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
        REDACT: partial(redact, recognise=recognise, findable=KINDS | found.kinds),
        RESTORE: restore,
    }
    return looks, frozenset(found.kinds)


def prepare(rules: list[Rule], settings: RuleSettings, max_chars: int) -> Plugin | PluginWrong | None:
    """Add the rule of `settings` to `rules`; return what is told of a plugin's, or what is wrong with it."""
    if isinstance(settings, PluginSettings):
        try:
            plugin = loaded(settings, max_chars)
        except PluginWrong as wrong:
            return wrong
        rules.append(plugin)
        return plugin.told
    rule = made(settings)
    assert not isinstance(rule, Form)
    rules.append(rule)
    rule.findings(SAMPLE)  # tables that are read with the first text are read now
    return None


def serve(questions: BinaryIO, answers: BinaryIO, judge: Judge, looks: Looks = LOOKS) -> None:
    """Answer until the parent closes its end."""
    rules: list[Rule] = []
    while header := questions.read(LENGTH.size):
        answers.write(frame(answer(judge, questions.read(LENGTH.unpack(header)[0]), looks, rules)))
        answers.flush()


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    (size,) = LENGTH.unpack(sys.stdin.buffer.read(LENGTH.size))
    duties: Duties = pickle.loads(sys.stdin.buffer.read(size))
    resource.setrlimit(resource.RLIMIT_AS, (duties.memory_bytes, duties.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the answers
    try:
        looks, kinds = looking(duties.recogniser)
        ready: tuple[int, Any] = READY, kinds
    # A recogniser is anybody's code, and so is what it raises; the parent says so and does not start.
    except Exception as error:
        ready = CRASHED, f"{type(error).__name__}: {error}"
    answers.write(frame(ready))
    answers.flush()
    if ready[0] == READY:
        serve(sys.stdin.buffer, answers, Judge(duties.judgement, duties.registered), looks)


if __name__ == "__main__":
    main()
