"""The redactor: a spec with placeholders in the place of what is sensitive, made before it leaves the site.

The validator finds and replaces; what it gave back is looked at once more, whole. Whatever is in doubt does not leave.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
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
        texts = _texts(leaving)
        told = await self._ask(texts, kinds, vault, call)
        rewrite(leaving, told.__getitem__)
        # JSON was read string by string. As one text it may tell more: a number after the name "phone".
        texts, joined = _texts(leaving, whole=True), _joined(leaving)
        told = await self._ask([*texts, *joined], kinds, vault, call, again=True)
        if any(told[text] != text for text in joined):
            raise Fixed("something sensitive stands across two parts of a message")
        rewrite(leaving, told.__getitem__, whole=True)
        if leaving != spec:
            loosen(leaving.constraint)
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
    """Raise Fixed where a text of `spec` holds what a placeholder stands for, or ends within it."""
    originals = [one.original for one in placeholders if one.kind != ESCAPED]
    texts = {*_texts(spec), *_texts(spec, whole=True)}
    if sum(map(len, texts)) * len(originals) > MOST_WORK:
        raise Fixed("there is too much to be looked through again")
    for text in texts:
        for original in originals:
            if original in text and (len(original) >= LONG or _is_word(original, text)):
                raise Fixed("something sensitive was found in it again")
            if _ends_within(text, original):
                raise Fixed("a text of it was cut within something sensitive")


def _is_word(original: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(original)}(?!\w)", text) is not None


def _ends_within(text: str, original: str) -> bool:
    """Whether `text` ends with a beginning of `original` that tells something."""
    begun = original[: min(TAIL, len(original) - 1)]
    at = text.find(begun, max(0, len(text) - len(original) + 1)) if begun else -1
    while at >= 0:
        if original.startswith(text[at:]):
            return True
        at = text.find(begun, at + 1)
    return False
