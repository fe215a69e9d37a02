"""The redactor: a spec with placeholders in the place of what is sensitive, made before it leaves the site.

The validator finds and replaces; what it gave back is looked at once more, whole. Whatever is in doubt does not leave.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from spillway import v1
from spillway.errors import PolicyBlocked, SpillwayError
from spillway.logs import get_logger
from spillway.placeholders import ESCAPED, Placeholder, restored
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import validator_pb2_grpc

from .loosening import loosen
from .prompt import read_prompt
from .redaction import Kinds
from .rewriting import Fixed, rewrite
from .vault import Vault

log = get_logger(__name__)

AT_ONCE = 1000
"""Texts in one call; the validator takes a few more."""
TAIL = 6
"""Of an original that was cut so many of its first characters do not leave, nor all but one of a shorter one."""
LONG = 8
"""Characters of an original that stands in no other word by chance."""
HEAD = 12
"""Of a longer original its first half does not leave, nor so many of its first characters, if that is more."""
MOST_WORK = 2**30
"""Characters times originals, looked for one by one."""


class Redactor:
    """Asks the validator at `remote`, `timeout_s` at most for one step; None: there is none."""

    def __init__(self, remote: Remote | None, timeout_s: float) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        self._redact = None
        if remote is not None:
            self._redact = validator_pb2_grpc.ValidatorServiceStub(remote.channel).Redact

    async def redacted(self, spec: v1.GenerationSpec, kinds: Kinds, vault: Vault, call: Call) -> v1.GenerationSpec:
        """Return a copy of `spec` without anything of `kinds`, or `spec` where it is one.

        `vault` knows what its placeholders stand for.

        Raises PolicyBlocked where that cannot be had: another target may then be tried.
        """
        if vault.has_made(spec):
            return spec
        try:
            async with vault.lock:
                return await self._redacted(spec, kinds, vault, call)
        except SpillwayError as error:
            why = f"the validator did not redact it ({error.reason})"
        except Fixed as error:
            why = str(error)
        log.warning("prompt.not_redacted", why=why)
        blocked = PolicyBlocked(f"the content cannot leave redacted: {why}")
        blocked.elsewhere = True
        raise blocked

    async def _redacted(self, spec: v1.GenerationSpec, kinds: Kinds, vault: Vault, call: Call) -> v1.GenerationSpec:
        prompt = read_prompt(spec)
        if fixed := (*prompt.unreadable, *prompt.sealed):
            raise Fixed(f"{', '.join(fixed)} cannot be redacted")
        leaving = v1.GenerationSpec()
        leaving.CopyFrom(spec)
        if vault.before is not None:
            await self._ask(_texts(vault.before), kinds, vault, call)
            vault.before = None
        session = [spec.session_id] if spec.session_id else []
        told = await self._ask([*_texts(leaving), *session], kinds, vault, call)
        named = any(told[name] != name for name in session)
        rewrite(leaving, told.__getitem__)
        # JSON was read string by string. As one text it may tell more: a number after the name "phone".
        texts, joined = _texts(leaving, whole=True), _joined(leaving)
        told = await self._ask([*texts, *joined], kinds, vault, call, again=True)
        if any(told[text] != text for text in joined):
            raise Fixed("something sensitive stands across two parts of a message")
        rewrite(leaving, told.__getitem__, whole=True)
        if leaving != spec:
            loosen(leaving.constraint)
        if named:  # the session, by somebody's address
            leaving.ClearField("session_id")
        # What is long takes a while; meanwhile others are served.
        await asyncio.to_thread(_require_none_left, leaving, vault.placeholders)
        vault.made.append(leaving)
        return leaving

    async def _ask(
        self, texts: Sequence[str], kinds: Kinds, vault: Vault, call: Call, *, again: bool = False
    ) -> dict[str, str]:
        """Return what is to stand in the place of each text. `again`: they hold placeholders already."""
        if self._remote is None or self._redact is None:
            raise Fixed("this router has no validator")
        found: dict[str, str] = {}
        for first in range(0, len(texts), AT_ONCE):
            some, known = texts[first : first + AT_ONCE], vault.placeholders
            request = v1.RedactRequest(
                texts=some,
                kinds=sorted(kinds.names),
                placeholders=[v1.Placeholder(token=one.token, original=one.original, kind=one.kind) for one in known],
            )
            asking = call.until(call.deadline.within(self._timeout_s))
            response = await self._remote.unary(self._redact, request, asking, span_name=names.REDACT_PROMPT)
            told = list(response.texts)
            given = tuple(Placeholder(one.token, one.original, one.kind) for one in response.placeholders)
            if len(told) != len(some) or given[: len(known)] != known:
                raise Fixed("texts or placeholders were lost on the way")
            if again:
                # What looks like a placeholder is replaced too, so that is undone for what was one.
                undone = [one for one in given if one.kind == ESCAPED]
                told = [restored(text, undone) for text in told]
                given = (*known, *(one for one in given[len(known) :] if one.kind != ESCAPED))
            vault.placeholders = given
            found.update(zip(some, told, strict=True))
        return found

    def __repr__(self) -> str:
        return f"<Redactor over {self._remote!r}, {self._timeout_s:g} s>"


def _texts(spec: v1.GenerationSpec, *, whole: bool = False) -> list[str]:
    """All texts of `spec`, each once, in their order."""
    found: dict[str, None] = {}

    def put(text: str) -> str:
        found[text] = None
        return text

    rewrite(spec, put, whole=whole)
    return list(found)


def _joined(spec: v1.GenerationSpec) -> list[str]:
    """Texts that stand in several parts of one message, as a target may put them together."""
    found = []
    for message in spec.chat.messages:
        for is_text, parts in groupby(message.parts, key=lambda part: part.HasField("text")):
            texts = [part.text for part in parts]
            if is_text and len(texts) > 1:
                found.append("".join(texts))
    return found


def _require_none_left(spec: v1.GenerationSpec, placeholders: Iterable[Placeholder]) -> None:
    """Raise Fixed where a text of `spec` holds what a placeholder stands for, or the beginning of it."""
    forms = {form for one in placeholders if one.kind != ESCAPED for form in _forms(one.original)}
    texts = {*_texts(spec), *_texts(spec, whole=True)}
    if sum(map(len, texts)) * len(forms) > MOST_WORK:
        raise Fixed("there is too much to be looked through again")
    for text in texts:
        for form in forms:
            head = form[: max(HEAD, (len(form) + 1) // 2)]
            if head in text and (len(head) >= LONG or _is_word(head, text)):
                raise Fixed("something sensitive was found in it again")
            if _cut_in(text, form):
                raise Fixed("a text of it was cut within something sensitive")


def _forms(original: str) -> Iterator[str]:
    """How a text may say `original`: as it is, as JSON writes it, and its lines with something between them."""
    yield original
    if "\\" in original or '"' in original or not (original.isascii() and original.isprintable()):
        yield json.dumps(original)[1:-1]
        yield json.dumps(original, ensure_ascii=False)[1:-1]
    if "\n" in original:
        lines = (line.strip(" \t\r>|") for line in original.split("\n"))
        yield from (line for line in lines if len(line) >= LONG and any(map(str.isdigit, line)))


def _is_word(original: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(original)}(?!\w)", text) is not None


def _cut_in(text: str, original: str) -> bool:
    """Whether a line of `text` ends with a beginning of `original` that tells something.

    An answer that was cut stands in the middle of what is asked about it.
    """
    begun = original[: min(TAIL, len(original) - 1)]
    at = text.find(begun) if begun else -1
    while at >= 0:
        over = at + len(original)
        end = text.find("\n", at, over)
        if end < 0 and over > len(text):
            end = len(text)
        if end >= 0 and original.startswith(text[at:end]):
            return True
        at = text.find(begun, at + 1)
    return False
