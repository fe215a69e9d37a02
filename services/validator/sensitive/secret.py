"""Keys and tokens: by the marks their issuers give them, or by the words before something that looks random."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.validator.sensitive.span import Certainty, Span

_EDGE = r"(?<![A-Za-z0-9])"
_END = r"(?![A-Za-z0-9])"


@dataclass(frozen=True, slots=True)
class Token:
    """One issuer's form. `marks`: a text without any of them is not searched."""

    rule: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]


def _token(rule: str, marks: str, pattern: str) -> Token:
    return Token(f"secret.{rule}", tuple(marks.split()), re.compile(_EDGE + pattern + _END))


_TOKENS = (
    _token("aws", "AKIA ASIA ABIA ACCA", r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}"),
    _token("github", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _token("github", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,255}"),
    _token("gitlab", "glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),
    _token("slack", "xox xapp-", r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,255}"),
    _token("slack", "hooks.slack.com", r"hooks\.slack\.com/services/T\w{6,16}/B\w{6,16}/\w{16,32}"),
    _token("google", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _token("google", "GOCSPX- ya29.", r"(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{20,512})"),
    _token("anthropic", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,255}"),
    _token("openai", "sk-", r"sk-(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{20,255}"),
    _token("stripe", "k_live_ k_test_ whsec_", r"(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9]{16,255}"),
    _token("huggingface", "hf_", r"hf_[A-Za-z0-9]{30,64}"),
    _token("npm", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _token("pypi", "pypi-", r"pypi-[A-Za-z0-9_-]{50,255}"),
    _token("sendgrid", "SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _token("telegram", ":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    _token("jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,16384}\.[A-Za-z0-9_-]{0,2048}"),
)

_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")

_URL = re.compile(r"://[^\s:@/]{1,128}:([^\s@/]{1,256})@")
_NAMED = re.compile(
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_ -]?key|access[_ -]?key|account[_ -]?key|private[_ -]?key|"
    r"encryption[_ -]?key|credentials?|mot de passe|passwort|kennwort|contrase[ñn]a)"
    r"(?:[_ -](?:key|id|value|token))?[\"'`]{0,2} ?(?:=>|:=|[:=]|is|ist|est|es)[ \"'`]{0,3}"
    r"([^\s\"'`,;<>(){}\[\]]{6,512})(?!\()"
)
_BEARER = re.compile(r"(?:bearer|basic) +([a-z0-9._~+/-]{16,2048}={0,2})")
_NAMES = ("pass", "pwd", "secret", "token", "key", "credential", "kennwort", "contrase")


def secrets(text: str) -> Iterator[Span]:
    """Find keys and tokens."""
    for token in _TOKENS:
        if any(mark in text for mark in token.marks):
            for match in token.pattern.finditer(text):
                yield Span(match.start(), match.end(), "secret", token.rule, Certainty.CHECKED)
    yield from _keys(text)
    if "://" in text:
        for match in _URL.finditer(text):
            yield _span(match, "url", match[1])
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):
        for match in _NAMED.finditer(lowered):
            value = text[match.start(1) : match.end(1)].rstrip(".:!?")
            if random(value):
                yield _span(match, "named", value)
    for match in _BEARER.finditer(lowered):
        value = text[match.start(1) : match.end(1)]
        if random(value):
            yield _span(match, "bearer", value)


def random(value: str) -> bool:
    """Whether `value` looks like a key or a password, not like a word, a number or a name in a program.

    Letters with digits or with two kinds of other characters, and at least five different ones.
    """
    if len(value) < 6 or len(set(value)) < 5 or value.startswith(("$", "%", "/", "http")):
        return False
    lower, upper, digit = (any(map(test, value)) for test in (str.islower, str.isupper, str.isdigit))
    symbol = any(character in "!@#$%^&*+=?~|" for character in value)
    return (lower or upper) and (digit or (symbol and lower and upper))


def _keys(text: str) -> Iterator[Span]:
    """Private keys from their first line to their last; one that is cut off goes to the end of the text."""
    position = 0
    while begin := _PEM.search(text, position):
        end = _PEM_END.search(text, begin.end())
        position = end.end() if end else len(text)
        yield Span(begin.start(), position, "secret", "secret.private_key", Certainty.CHECKED)


def _span(match: re.Match[str], rule: str, value: str) -> Span:
    start = match.start(1)
    return Span(start, start + len(value), "secret", f"secret.{rule}", Certainty.CONTEXT)
