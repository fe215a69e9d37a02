"""Regular expressions over whole answers, in linear time.

Python's own `re` can be held for hours by a short expression. Expressions run on the engine of the schema library,
which is linear in the answer; what it cannot do linearly, look-around and back-references, is refused.
"""

from __future__ import annotations

from functools import lru_cache

import jsonschema_rs

from services.validator.weight import costly
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid

FIELD = "constraint.regex"
_PROGRAM_BYTES = 2**20


class Expression:
    """A compiled expression, of `whole` answers or of something in them.

    Raises RequestInvalid or ConstraintUnsupported.
    """

    def __init__(self, text: str, *, whole: bool = True) -> None:
        if not _compiles(text, linear=True):
            if _compiles(text, linear=False):
                said = "look-around, back-references and huge repetitions take unbounded time and are not supported"
                raise ConstraintUnsupported(f"{FIELD}: {said}", fields=[FieldViolation(FIELD, said)])
            raise _invalid("is not a regular expression")
        if whole and not _compiles(_anchored(text), linear=True):
            raise _invalid("cannot be matched against a whole answer; leave out flags such as (?x)")
        self._validator = _compiled(_anchored(text) if whole else text, linear=True)

    def matches(self, answer: str) -> bool:
        """Whether the whole of `answer` matches, or something in it."""
        return self._validator.is_valid(answer)


def light(text: str) -> bool:
    """Whether `text` may be compiled in the event loop."""
    return not costly(text)


@lru_cache(maxsize=256)
def compiled(text: str) -> Expression:
    """Return the expression `text`, from memory where it is known."""
    return Expression(text)


@lru_cache(maxsize=256)
def found(text: str) -> Expression:
    """Return the expression `text` that something in an answer may match, from memory where it is known."""
    return Expression(text, whole=False)


def _anchored(text: str) -> str:
    return f"^(?:{text})$"


def _compiles(pattern: str, *, linear: bool) -> bool:
    try:
        _compiled(pattern, linear=linear)
    except ValueError:
        return False
    return True


def _compiled(pattern: str, *, linear: bool) -> jsonschema_rs.Validator:
    options = (
        jsonschema_rs.RegexOptions(size_limit=_PROGRAM_BYTES)
        if linear
        else jsonschema_rs.FancyRegexOptions(size_limit=_PROGRAM_BYTES)
    )
    return jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options)


def _invalid(said: str) -> RequestInvalid:
    return RequestInvalid(f"{FIELD}: {said}", fields=[FieldViolation(FIELD, said)])
