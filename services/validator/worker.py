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
from typing import Any, BinaryIO

from services.validator.judgement import Judge
from services.validator.rules.plugin import Plugin, PluginSettings, PluginWrong, loaded
from services.validator.rules.rule import Form, Rule, RuleSettings
from services.validator.rules.table import made
from services.validator.sensitive.inspection import inspect_all
from services.validator.settings import JudgementSettings
from spillway.errors import SpillwayError
from spillway.leash import end_with_parent

LENGTH = struct.Struct("!I")
READY, ANSWERED, REFUSED, CRASHED, TOO_MUCH = range(5)
SAMPLE = "A text with letters enough for any rule."
JUDGE, INSPECT, PREPARE, RULE = range(4)


def frame(value: Any) -> bytes:
    """Return `value` as it travels: its length in 4 bytes, then its pickle."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def answer(judge: Judge, body: bytes, rules: list[Rule] | None = None) -> tuple[int, Any]:
    """Return what is to be told of the question in `body`; `rules` are those that were prepared, in their order."""
    rules = [] if rules is None else rules
    try:
        asked, *arguments = pickle.loads(body)
        if asked == INSPECT:
            return ANSWERED, inspect_all(*arguments)
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


def serve(questions: BinaryIO, answers: BinaryIO, judge: Judge) -> None:
    """Answer until the parent closes its end."""
    answers.write(frame((READY, None)))
    answers.flush()
    rules: list[Rule] = []
    while header := questions.read(LENGTH.size):
        answers.write(frame(answer(judge, questions.read(LENGTH.unpack(header)[0]), rules)))
        answers.flush()


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    settings, memory_bytes = JudgementSettings.model_validate_json(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the answers
    serve(sys.stdin.buffer, answers, Judge(settings))


if __name__ == "__main__":
    main()
