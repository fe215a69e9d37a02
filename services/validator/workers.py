"""Worker processes: they judge and inspect what may take long, and are ended when it does.

The schema library holds the interpreter lock while it works, so a thread would stop the event loop all the same; and a
hostile schema can ask for more time, memory or stack than there is. A process bounds all three.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from services.validator.duties import Duties
from services.validator.policies import Held
from services.validator.rules.plugin import Plugin, PluginWrong
from services.validator.sensitive.inspection import Seen
from services.validator.sensitive.redaction import Redacted
from services.validator.settings import JudgementSettings, WorkerSettings
from services.validator.verdict import Answer, Constraint, Finding, Verdict
from services.validator.worker import (
    ANSWERED,
    CRASHED,
    INSPECT,
    JUDGE,
    LENGTH,
    PREPARE,
    READY,
    REDACT,
    REFUSED,
    RESTORE,
    RULE,
    TOO_MUCH,
    frame,
)
from spillway.errors import BY_REASON, ConstraintUnsupported, FieldViolation, QueueFull, RequestInvalid, SpillwayError
from spillway.leash import leashed
from spillway.logs import get_logger
from spillway.placeholders import Placeholder
from spillway.settings import SettingsError

log = get_logger(__name__)


class Worker:
    """One process, asked one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.kinds: Set[str] = frozenset()
        """What its recogniser finds."""

    @classmethod
    async def start(cls, duties: Duties, start_limit_s: float) -> Worker:
        """Start a process and wait until it is ready. Raises OSError if it is not in time, or says why it cannot."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.validator.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=leashed(dict(os.environ)),
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(start_limit_s):
                await worker._write(duties)
                ready, told = await worker._read()
            if ready != READY:
                raise OSError(f"a worker of the validator did not start: {told}")
            worker.kinds = told
        except BaseException as error:
            await worker.end()
            if isinstance(error, TimeoutError | asyncio.IncompleteReadError | ConnectionError):
                raise OSError("a worker of the validator did not start") from None
            raise
        return worker

    async def ask(self, *question: Any) -> tuple[int, Any]:
        """Return what the worker says. Raises IncompleteReadError or ConnectionError if it died of the question."""
        await self._write(question)
        return await self._read()

    async def _write(self, told: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(frame(told))
        await self._process.stdin.drain()

    async def _read(self) -> tuple[int, Any]:
        assert self._process.stdout is not None
        (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
        told: tuple[int, Any] = pickle.loads(await self._process.stdout.readexactly(size))
        return told

    @property
    def up(self) -> bool:
        """Whether the process lives."""
        return self._process.returncode is None

    async def end(self) -> None:
        """End the process at once."""
        if self._process.returncode is None:
            self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def __repr__(self) -> str:
        return f"<Worker {self._process.pid} {'up' if self.up else 'ended'}>"


class Workers:
    """A few workers and the calls that wait for one. A worker that was ended is replaced when it is next needed.

    `rules` are those it is to know; `registered` are the texts of schemas that every other one may refer to, by their
    URI.
    """

    def __init__(
        self,
        judgement: JudgementSettings,
        settings: WorkerSettings,
        rules: Sequence[Held] = (),
        *,
        registered: Mapping[str, str] | None = None,
        recogniser: str = "",
    ) -> None:
        self._duties = Duties(judgement, settings.memory_bytes, dict(registered or {}), recogniser)
        self._settings = settings
        self.kinds: Set[str] = frozenset()
        """What the recogniser finds, once a worker has started."""
        self._rules = rules
        self.plugins: dict[str, Plugin] = {}
        """What is told of the plugins among `rules`, by where their settings stand."""
        self._turns = asyncio.Semaphore(settings.processes)
        self._idle: list[Worker] = []
        self._running: set[Worker] = set()
        self._waiting = 0

    async def start(self) -> None:
        """Start all workers. Raises OSError if one does not come up, SettingsError for a rule that is none."""
        for _ in range(self._settings.processes):
            self._idle.append(await self._new())

    async def judge(self, constraint: Constraint, answers: Sequence[Answer], *, mend: bool = False) -> list[Verdict]:
        """Return one verdict per answer; `mend` broken JSON first.

        Raises what `Judge.judge` raises; ConstraintUnsupported where the judgement passed its time, memory or stack;
        QueueFull where too many calls wait.
        """
        verdicts: list[Verdict] = await self._turn(
            JUDGE, constraint, answers, mend, too_much=partial(_too_much, constraint)
        )
        return verdicts

    async def inspect(self, texts: Sequence[str]) -> list[Seen]:
        """Return what each text holds.

        Raises RequestInvalid where that passed its time or memory; QueueFull where too many calls wait.
        """
        seen: list[Seen] = await self._turn(INSPECT, texts, too_much=_too_much_text)
        return seen

    async def redact(self, texts: Sequence[str], kinds: Set[str], known: Sequence[Placeholder]) -> Redacted:
        """Return `texts` with placeholders for what is of `kinds`. Raises as `inspect` does."""
        told: Redacted = await self._turn(REDACT, texts, kinds, known, too_much=_too_much_text)
        return told

    async def restore(self, texts: Sequence[str], placeholders: Sequence[Placeholder], most: int) -> list[str]:
        """Return `texts`, of at most `most` characters, with what placeholders stand for. Raises as `inspect` does."""
        told: list[str] = await self._turn(RESTORE, texts, placeholders, most, too_much=_too_much_text)
        return told

    async def rule(self, place: int, texts: Sequence[str]) -> list[Sequence[Finding]]:
        """Return for each text what the rule at `place`, of those given at the start, finds.

        Raises ConstraintUnsupported where that passed its time or memory, or a plugin failed; QueueFull as above.
        """
        found: list[Sequence[Finding]] = await self._turn(RULE, place, texts, too_much=ConstraintUnsupported)
        return found

    async def _turn(self, *question: Any, too_much: Callable[[str], SpillwayError]) -> Any:
        if self._turns.locked() and self._waiting >= self._settings.max_waiting:
            raise QueueFull("too many calls wait for a worker", retry_after_s=self._settings.time_limit_s)
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._ask(*question, too_much=too_much)
        finally:
            self._turns.release()

    async def _ask(self, *question: Any, too_much: Callable[[str], SpillwayError]) -> Any:
        worker = self._rested() or await self._new()
        whole = False
        try:
            async with asyncio.timeout(self._settings.time_limit_s):
                kind, told = await worker.ask(*question)
            whole = True
        except TimeoutError:
            raise too_much(f"took more than {self._settings.time_limit_s:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise too_much("took more memory or stack than it may") from None
        finally:
            if whole:
                self._idle.append(worker)
            else:  # what it is at is unknown
                log.warning("worker.ended", worker=repr(worker))
                self._running.discard(worker)
                await asyncio.shield(worker.end())
        if kind == REFUSED:
            reason, message, fields = told
            raise BY_REASON[reason](message, fields=fields)
        if kind == TOO_MUCH:
            raise too_much("took more memory or stack than it may")
        if kind == CRASHED:
            raise RuntimeError(f"a worker raised {told}")
        assert kind == ANSWERED
        return told

    def _rested(self) -> Worker | None:
        """Return an idle worker, if there is one; those that have ended meanwhile are no fault of who asks."""
        while self._idle:
            worker = self._idle.pop()
            if worker.up:
                return worker
            self._running.discard(worker)
        return None

    async def close(self) -> None:
        """End all workers."""
        self._idle.clear()
        while self._running:
            await self._running.pop().end()

    async def _new(self) -> Worker:
        worker = await Worker.start(self._duties, self._settings.start_limit_s)
        self.kinds = worker.kinds
        try:
            for held in self._rules:
                await self._prepare(worker, held)
        except BaseException:
            await asyncio.shield(worker.end())
            raise
        self._running.add(worker)
        return worker

    async def _prepare(self, worker: Worker, held: Held) -> None:
        """Have `worker` make the rule of `held`. Raises SettingsError where it cannot be made."""
        problem = f"{held.place}: "
        try:
            async with asyncio.timeout(self._settings.start_limit_s):
                kind, told = await worker.ask(PREPARE, held.settings, self._duties.judgement.max_message_chars)
        except TimeoutError:
            raise SettingsError(f"{problem}took more than {self._settings.start_limit_s:g} s to load") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise SettingsError(f"{problem}ended its process while it was loaded") from None
        if kind != ANSWERED:
            raise SettingsError(f"{problem}cannot be loaded")
        if isinstance(told, PluginWrong):
            raise SettingsError(f"{held.place}.{told.place}: {told.why}")
        if isinstance(told, Plugin):
            self.plugins[held.place] = told

    def __repr__(self) -> str:
        return f"<Workers {len(self._idle)} idle of {self._settings.processes}, {self._waiting} calls wait>"


def _too_much(constraint: Constraint, said: str) -> ConstraintUnsupported:
    field = f"constraint.{constraint.kind}"
    said = f"judging these answers by it {said}; make it simpler"
    return ConstraintUnsupported(f"{field}: {said}", fields=[FieldViolation(field, said)])


def _too_much_text(said: str) -> RequestInvalid:
    said = f"looking through them {said}; send less at once"
    return RequestInvalid(f"texts: {said}", fields=[FieldViolation("texts", said)])
