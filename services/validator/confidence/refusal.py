"""Answers that decline, or say that they do not know: English, French, German, Spanish, Italian, Portuguese.

Only how one of the first two sentences begins counts: a letter of complaint says "I cannot" as well, further down or of
something else. Rather one refusal unseen than an answer taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_READ_CHARS = 400
_SENTENCE = re.compile(r"(?<=[.!?\u2026])\s+|\n+")
_DASH = "[-\u2013\u2014]"
_DECORATION = " \t\n\"'\u00ab\u00bb\u201c\u201d*_#>:-\u2013\u2014"
_END = rf"(?:[.,;:!?\u2026]|\s*$| {_DASH} )"
_OF_A_MODEL = r"[^,.\n]{0,60}+"

_OPENERS = (
    rf"as an? (?:ai|artificial|large language|language)\b{_OF_A_MODEL}",
    rf"en tant qu(?:e|'){_OF_A_MODEL}",
    rf"als (?:ki|sprachmodell)\b{_OF_A_MODEL}",
    rf"como (?:modelo|ia)\b{_OF_A_MODEL}",
    r"(?:i'm|i am|we're|we are) (?:(?:very|so|really|truly) )?(?:sorry|afraid)",
    r"sorry|(?:my )?apologies|i apologi[sz]e|unfortunately|regrettably|well",
    r"(?:je suis )?(?:désolée?|navrée?)|malheureusement",
    r"(?:es )?tut mir (?:sehr )?leid|leider|entschuldigung",
    r"lo siento(?: mucho)?|lamentablemente|perdón",
    r"mi dispiace|purtroppo|desculpe|infelizmente",
)
"""What may stand before a refusal, and means nothing alone."""

_ABLE = (
    r"(?:help|assist|answer|provide|fulfil|comply|determine|discuss|engage|generate|translate|respond|tell you|"
    r"do (?:that|this)|access (?:the internet|real-time|external|any|your)|browse the|give (?:you|medical|legal))\b"
)
_ENGLISH = (
    rf"i (?:(?:really|just|honestly|simply|still) )?(?:do not|don't) (?:(?:actually|really) )?know{_END}",
    r"i (?:do not|don't) (?:actually )?know (?:the answer|whether|if|that|this|enough|for (?:sure|certain)|who)\b",
    r"i (?:do not|don't) (?:actually )?know (?:how to (?:answer|help|respond)|what (?:you|this|that)|anything about)\b",
    r"i (?:do not|don't) have (?:enough|sufficient|access|any (?:information|knowledge|data))\b",
    r"i (?:do not|don't) have (?:the (?:\w+ )?)?(?:information|context|knowledge|data|answer|ability)\b",
    r"i (?:do not|don't) understand (?:the|your) (?:question|request)\b",
    rf"i(?:'m| am) (?:not able|unable|not allowed|not permitted) to {_ABLE}",
    rf"i (?:cannot|can't|can not|could not|couldn't|won't|will not|am not going to) (?:\w+ly )?{_ABLE}",
    rf"i(?:'m| am) not (?:(?:quite|entirely|really) )?sure(?:{_END}| (?:about|what|how|if|whether|which|i)\b)",
    r"i have (?:absolutely )?no (?:idea|information|knowledge|way (?:of|to)|access)\b",
    r"i (?:must|have to) (?:respectfully )?(?:decline|refuse)\b|i(?: would|'d) (?:rather|prefer) not\b",
    r"(?:there is |there's )?(?:not enough|insufficient) (?:information|context|data)\b",
    r"(?:idk|dunno|no idea|no clue)\b\W*$",
)
_FRENCH = (
    r"je (?:ne )?(?:le )?sais pas\b|je l'ignore\b|aucune idée\b",
    r"je ne (?:peux|puis) (?:malheureusement )?pas\b",
    r"je ne suis pas (?:en mesure|capable|autorisée?|sûre?|certaine?)\b",
    r"je n'ai (?:pas|aucune?) (?:l'|d'|assez d(?:e |'))?(?:idée|informations?|accès|connaissance|réponse|données)\b",
)
_KEINE = r"(?:keine?n?|nicht genug) (?:information(?:en)?|ahnung|zugriff|zugang|kenntnis(?:se)?|angaben|daten)\b"
_GERMAN = (
    r"(?:ich wei(?:ß|ss) (?:es |das )?(?:leider )?|das wei(?:ß|ss) ich (?:leider )?)nicht\b|keine ahnung\b",
    r"(?:ich kann|kann ich) [^.!?\n]{0,80}?\bnicht (?:weiter)?(?:helfen|beantworten|bearbeiten|beurteilen|antworten)\b",
    r"(?:(?:das )?kann ich|ich kann das) (?:leider )?nicht (?:sagen|machen|tun|beantworten)\b",
    r"(?:ich )?bin (?:ich )?(?:leider )?nicht (?:in der lage|befugt)\b|ich bin mir nicht sicher\b",
    rf"(?:ich habe|habe ich) (?:leider )?(?:dazu |darüber )?{_KEINE}",
)
_SPANISH = (
    r"(?:yo )?no (?:lo )?sé\b|no estoy segur[oa]\b|no soy capaz\b|desconozco\b",
    r"no (?:te |le )?puedo (?:ayudar|responder|contestar|proporcionar|hacer|cumplir|dar)",
    r"no tengo (?:ni )?(?:información|idea|acceso|suficiente|conocimiento|datos)\b",
)
_OTHERS = (
    r"non (?:lo )?so\b|non posso (?:aiutar|rispondere|fornire)|non ho (?:idea|informazioni|accesso)\b",
    r"(?:eu )?não sei\b|não posso (?:ajudar|responder|fornecer)|não tenho (?:ideia|informaç\w+|acesso)\b",
)


def _any(patterns: Iterable[str]) -> str:
    return "(?:" + "|".join(patterns) + ")"


_BUT = r"(?: ?(?:[,.!:]| (?:but|mais|aber|pero|ma|mas|that|however)\b))*+ ?+(?:(?:but|mais|aber|pero|ma|mas) )?"
_REFUSAL = re.compile(
    rf"(?:{_any(_OPENERS)}{_BUT}){{0,2}}{_any(_ENGLISH + _FRENCH + _GERMAN + _SPANISH + _OTHERS)}", re.IGNORECASE
)


def refuses(text: str) -> bool:
    """Whether the answer `text` declines or says that it does not know. Reads its beginning, in linear time."""
    beginning = text[:_READ_CHARS].replace("\u2019", "'").strip(_DECORATION)
    sentences = [sentence.lstrip(_DECORATION) for sentence in _SENTENCE.split(beginning) if sentence.strip(_DECORATION)]
    return any(_REFUSAL.match(sentence) for sentence in sentences[:2])
