"""Where an answer goes on that another model was asked to continue. Pure: texts in, a place out.

A model that is asked to go on does so from the last character, or repeats the end of what it was given first, or starts
over word by word. Short words stand in a text many times, so an end is recognized by its anchor: so much of it that it
stands there once. All that is repeated up to and with the anchor is an overlap, of which there can be only one.
"""

from __future__ import annotations

LEAST = 24
"""Fewest characters by which an end or a beginning is recognized, where the text has as many."""
MOST = 400
"""Most of them: a text that repeats itself for longer has no end of its own."""


class Astray(Exception):
    """The answer does not go on with the text that it was to go on with."""


def anchor(sent: str) -> str:
    """The end of `sent` that stands nowhere else in it, from the beginning of a word where it has words.

    All of a short text; empty where there is none.
    """
    begins = [at for at in range(len(sent) - LEAST, max(0, len(sent) - MOST) - 1, -1) if not sent[at].isspace()]
    of_words = [at for at in begins if at == 0 or sent[at - 1].isspace()]
    for at in (*of_words, *begins):
        if sent.find(sent[at:]) == at:
            return sent[at:]
    return sent.lstrip() if len(sent) <= MOST else ""


class Overlap:
    """Between `sent`, a text that is there already, and an answer that is to go on with it.

    `exact`: the target goes on from the last character by its nature; another one must show by an overlap that it goes
    on at all. So must every target where all of `sent` is its anchor: said again, it may be what comes next or a new
    start.
    """

    def __init__(self, sent: str, *, exact: bool) -> None:
        self.sent = sent
        self.anchor = anchor(sent)
        self.exact = exact and 0 < len(self.anchor) < len(sent.lstrip())

    def joint(self, said: str, *, over: bool) -> int | None:
        """Where in `said`, the beginning of the answer, the part begins that is new; None: more must be seen.

        `over`: there is no more to see. No more has to be seen than `sent` is long. Raises Astray where the answer is
        no continuation: there is no overlap, or it begins as `sent` does and goes on in other words.
        """
        body = said.lstrip()
        lead, end = len(said) - len(body), self.anchor
        at = body.find(end) if end else -1
        while at >= 0:
            if self.sent.endswith(body[: at + len(end)]):
                return lead + at + len(end)
            at = body.find(end, at + 1)
        if body in self.sent and not over:
            return None
        if not self.exact or self._starts_over(body):
            raise Astray
        return 0

    def _starts_over(self, body: str) -> bool:
        """Whether `body` has a beginning that stands nowhere else in `sent`."""
        first = self.sent.lstrip()
        sizes = range(LEAST, min(len(first), MOST))
        own = next((size for size in sizes if first.find(first[:size], 1) < 0), None)
        return own is not None and body.startswith(first[:own])

    def __repr__(self) -> str:
        return f"<Overlap after {len(self.sent)} characters{' exact' if self.exact else ''}>"
