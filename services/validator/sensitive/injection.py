"""Where a text speaks as if it could command the model. Signs, not proof: who means harm can say it otherwise.

A rule is read from one of its first words on, over at most 16 words in lower case with one space between them, whatever
stands there in the text: so the time is linear in it. Rules are for English, French, German and Spanish. A text that
quotes such words is marked like one that means them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from services.validator.sensitive.span import Certainty, Span

_LISTS: Final = {
    "EARLIER": r"(?:previous|previously|prior|above|earlier|preceding|foregoing|existing|initial|original|system|former"
    r"|your|past|safety|other)",
    "ORDERS": r"(?:instructions?|prompts?|directives?|guidelines?|rules|commands?|orders|restrictions|programming"
    r"|safeguards|messages?|training|constraints|directions)",
    "GERMAN": r"(?:\w*anweisung(?:en)?|instruktion(?:en)?|vorgaben?|regeln|befehle?|richtlinien|alles(?: was)?)",
    "SPANISH": r"(?:instrucci(?:ón|on|ones)|reglas|órdenes|ordenes|indicaciones|directrices|normas"
    r"|todo lo (?:anterior|que))",
}
_TURNS: Final = "follow|read|sigue|sigan|lee|suivez|lisez|befolge|befolgen|lies"
"""After such a word it is something else that is to be ignored."""
_NOT: Final = frozenset({"not", "never", "t", "pas", "jamais", "nicht", "nie", "nunca"})
# Each begins with a sign that is rare, by which it is looked for: a text has few of them.
_MARKUP: Final = (
    re.compile(
        r"<(?:\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>|</?sys>>"
        r"|/?(?:start|end)_of_turn>)"
    ),
    re.compile(r"\[(?:/?inst|system(?: (?:message|prompt|override|note))?)\]"),
    re.compile(r"new(?<!\wnew) (?:system )?instructions?:"),
    re.compile(r"\n {0,3}(#{2,4} ?(?:system|instruction)s?[ :]*)(?=\n|\Z)"),
    re.compile(r"\n {0,3}(system(?: (?:message|prompt|override|note))?:)(?= )"),
)
_HIDDEN: Final = re.compile(
    "[\U000e0020-\U000e007f]{4,}|[\u202a-\u202e\u2066-\u2069]|[\u200b-\u200d\u2060-\u2064\ufeff]{3,}"
)
"""Tags, which nobody sees; directions that are turned over; runs of signs without width."""
_FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{2,7}\U000e007f")
"""A flag of a part of a country is written with tags, and rightly so."""
_WORD: Final = re.compile(r"\w+")
_WINDOW_CHARS: Final = 200
_WINDOW_WORDS: Final = 16


def _said(kind: str, heads: str, tail: str) -> tuple[str, list[str], re.Pattern[str]]:
    """A rule: its kind, its first words, and what follows them. ~3 are up to three words, NAMES stand for `_LISTS`."""
    tail = tail if tail.startswith(("~", "(?")) else f" {tail}"
    for name, words in _LISTS.items():
        tail = tail.replace(name, words)
    tail = re.sub("~([1-6])", rf"(?: (?!(?:{_TURNS})\\b)\\w+){{0,\1}}?", tail)
    return f"injection.{kind}", heads.split(), re.compile(rf"\w+{tail}(?!\w)")


_SAID: Final = (
    _said(
        "override",
        "ignore ignoring disregard disregarding forget override overriding bypass neglect discard abandon skip",
        "~4 EARLIER~3 ORDERS",
    ),
    _said(
        "override",
        "follow obey following obeying",
        "~2 none of~3 ORDERS",
    ),
    _said(
        "override",
        "not never stop quit t",
        "(?: follow| obey| following| obeying| listening to| adhere to)~3 EARLIER~2 ORDERS",
    ),
    _said(
        "override",
        "not never stop quit t",
        "(?: follow| obey| following| obeying)~2 ORDERS~1 (?:you|that)~1 (?:were|have|had|got|received)",
    ),
    _said(
        "override",
        "ignore ignoring disregard bypass override circumvent",
        "(?: all| any| every)~1 ORDERS",
    ),
    _said(
        "override",
        "ignore disregard",
        "(?: the| all| everything| anything| what s)?~1 above(?: and| text| $|$)",
    ),
    _said(
        "override",
        "ignore disregard forget override",
        "~2 ORDERS (?:above|before|(?:you|that) (?:were|have|had|got|received))",
    ),
    _said(
        "override",
        "forget ignore disregard",
        "(?: everything| all| anything| whatever)~4 (?:above|before|told|instructed|previously|learned|said)",
    ),
    _said(
        "override",
        "no",
        "attention to~4 (?:EARLIER)~2 ORDERS",
    ),
    _said(
        "override",
        "set throw put cast",
        "~1 aside~3 ORDERS",
    ),
    _said(
        "override",
        "new updated revised",
        "(?: system)? instructions? (?:follow|are|begin|from|for you|below)",
    ),
    _said(
        "override",
        "your",
        "(?: new| real| actual| true) (?:instructions?|task|orders|objective|goal|mission) "
        "(?:is|are) (?:now )?(?:to|as)",
    ),
    _said(
        "override",
        "your all these any",
        "EARLIER ORDERS~3 (?:cancell?ed|void|revoked|obsolete|suspended|lifted|superseded|overridden|no longer|do not "
        "apply|don t apply)",
    ),
    _said(
        "override",
        "supersedes supersede overrides replaces outranks",
        "~4 (?:EARLIER)~2 ORDERS",
    ),
    _said(
        "override",
        "ignore ignorez ignorer oublie oubliez oublier contourne contournez contourner négligez néglige",
        "~4 (?:instructions?|consignes?|directives?|règles|ordres|ce qui précède|tout ce qu|tout ce que)",
    ),
    _said(
        "override",
        "tiens tenez tenir fais faites faire passe passez",
        "(?: pas| plus)? (?:compte|abstraction|outre)~4 (?:instructions?|consignes?|directives?|règles|ordres)",
    ),
    _said(
        "override",
        "obéis obéissez suis suivez respecte respectez",
        "(?: plus| pas)~3 (?:instructions?|consignes?|directives?|règles|ordres)",
    ),
    _said(
        "override",
        "ignoriere ignorieren ignoriert vergiss vergesst vergessen missachte missachten überschreibe überschreiben "
        "umgehe umgehen verwirf verwerfen",
        "(?! nicht)~5 GERMAN",
    ),
    _said(
        "override",
        "folge befolge beachte befolgen beachten halte",
        "~5 GERMAN~2 (?:nicht|keine)",
    ),
    _said(
        "override",
        "folge befolge beachte befolgen beachten",
        "~3 (?:nicht|keine[nr]?)~4 GERMAN",
    ),
    _said(
        "override",
        "setze setzen",
        "~4 GERMAN~3 (?:außer kraft|zurück)",
    ),
    _said(
        "override",
        "ignora ignore ignorar ignorad ignoren olvida olvide olvidar olvídate descarta descarte omite omita desobedece "
        "desestima",
        "~5 SPANISH",
    ),
    _said(
        "override",
        "hagas haga hagan sigas siga obedezcas obedezca",
        "(?: caso)?~4 SPANISH",
    ),
    _said(
        "role",
        "you act behave answer respond speak",
        "~4 (?:dan|unrestricted|unfiltered|uncensored|jailbroken|amoral|unaligned)",
    ),
    _said(
        "role",
        "enter enable activate switch turn engage",
        "~4 (?:developer|debug|god|jailbreak|dan|admin|maintenance|unrestricted|sudo|root) mode",
    ),
    _said(
        "role",
        "without no remove drop disable free",
        "~3 (?:ethical|moral|safety|content)~2 (?:restrictions?|guidelines?|filters?|limits?|limitations|policies|"
        "constraints|rules)",
    ),
    _said(
        "role",
        "pretend imagine assume roleplay",
        "~6 (?:no|without)~2 (?:restrictions?|rules|filters?|limits?|guidelines?|policies)",
    ),
    _said(
        "role",
        "do",
        "anything now",
    ),
    _said(
        "role",
        "now",
        "on~3 you (?:will |must |shall )?(?:obey|only (?:answer|respond|follow|obey)|are no longer|are free|answer as"
        "|do as)",
    ),
    _said(
        "role",
        "you",
        "(?: are| re) no longer~4 (?:assistant|ai|chatbot|bound|restricted|limited|model|bot)",
    ),
    _said(
        "role",
        "désormais maintenant dorénavant",
        "~1 (?:tu es|vous êtes|tu obéis|vous obéissez|tu réponds|tu dois obéir|vous devez obéir)",
    ),
    _said(
        "role",
        "sans aucun aucune",
        "~2 (?:restrictions?|filtres?|limites?|censure) (?:éthiques?|morales?|de sécurité|ni)",
    ),
    _said(
        "role",
        "es êtes",
        "(?: maintenant| désormais)~5 (?:sans~2 (?:restrictions?|filtres?|limites?|règles|censure)|administrateur|non "
        "censurée?)",
    ),
    _said(
        "role",
        "jetzt sofort nun",
        "(?: an)?~1 (?:bist du|sind sie|gehorchst du|gehorchen sie|antwortest du nur|musst du)~6 (?:ohne|frei|"
        r"unzensiert\w*|gehorchen|administrator|kein\w*|nur)",
    ),
    _said(
        "role",
        "bist",
        r"(?: jetzt| nun| ab sofort)~6 (?:ohne~2 (?:einschränkungen|filter|regeln|grenzen)|unzensiert\w*|"
        r"uneingeschränkt\w*|administrator|kein\w*~2 (?:ki|assistent|modell))",
    ),
    _said(
        "role",
        "ohne",
        r"~2 (?:ethische|moralische|sicherheits\w*|inhaltliche)~2 (?:einschränkungen|filter|regeln|grenzen|richtlinien|"
        "vorgaben)",
    ),
    _said(
        "role",
        "ahora adelante",
        "~2 (?:eres|actúas|actuas|obedeces|obedecerás|responderás|harás|vas a)~5 (?:sin|libre|todo|solo|sólo|"
        "administrador|dan|lo que)",
    ),
    _said(
        "role",
        "eres",
        "ahora~5 (?:sin~2 (?:restricciones|filtros|límites|reglas|censura)|administrador|libre)",
    ),
    _said(
        "role",
        "sin",
        "~2 (?:restricciones|filtros|límites|censura) (?:éticas|éticos|morales|de seguridad|de contenido|ni)",
    ),
    _said(
        "exfiltration",
        "reveal show print repeat output display disclose leak tell give share dump expose paste recite write send "
        "quote summarize summarise translate",
        "~5 (?:system (?:prompt|message|instructions?)|(?:initial|hidden|secret|internal|original|confidential|exact|"
        "full)~1 (?:prompts?|instructions?)|your~1 (?:prompt|instructions))",
    ),
    _said(
        "exfiltration",
        "what",
        "(?: is| are| was| were| s)~1 (?:your|the)~1 (?:system (?:prompt|message|instructions?)|initial (?:prompt|"
        "instructions?)|hidden instructions?)",
    ),
    _said(
        "exfiltration",
        "repeat print output copy echo",
        "~3 (?:everything|all|text|words|lines)~3 above",
    ),
    _said(
        "exfiltration",
        "send forward post upload email transmit exfiltrate submit append encode",
        "~6 (?:conversation|chat history|passwords?|credentials|api keys?|secrets|tokens|private data|user data|"
        "environment variables)~4 (?:to|at|via|in|into) (?:https?|www|the url|this|my|the following|an? (?:url|image|"
        r"link|server)|\w+ (?:com|org|net|io|example))",
    ),
    _said(
        "exfiltration",
        "révèle révélez révéler affiche affichez afficher montre montrez montrer répète répétez donne donnez divulgue "
        "divulguez écris imprime envoie envoyez recopie recopiez",
        "~4 (?:prompt|invite système|message système|(?:instructions?|consignes?|directives?) (?:du )?(?:système|"
        "initiales?|secrètes?|cachées?|internes?|confidentielles?))",
    ),
    _said(
        "exfiltration",
        "zeig zeige zeigen verrate verraten verrat gib geben nenn nenne nennen wiederhole wiederholen drucke schreib "
        "schreibe offenbare sende senden schick schicke",
        "~5 (?:system ?prompt|systemprompts?|systemanweisung(?:en)?|systemnachricht|(?:geheimen?|ursprünglichen?|"
        "internen?|versteckten?|anfänglichen?) (?:anweisung(?:en)?|instruktion(?:en)?|vorgaben?|prompts?))",
    ),
    _said(
        "exfiltration",
        "revela revele revélame muestra muestre muéstrame imprime repite repita di dime dame enseña enséñame escribe "
        "envía envíame copia",
        "~4 (?:prompt|mensaje del? sistema|instrucciones (?:del sistema|iniciales|secretas|ocultas|internas|originales|"
        "confidenciales))",
    ),
)
_RULES: Final[dict[str, list[tuple[str, re.Pattern[str]]]]] = defaultdict(list)
for _kind, _heads, _pattern in _SAID:
    for _head in _heads:
        _RULES[_head].append((_kind, _pattern))


def marks(text: str) -> Iterator[Span]:
    """Find signs of injection in a text that `plain` made."""
    lowered = text.lower()
    before = ""
    for head in _WORD.finditer(lowered):
        rules = None if before in _NOT else _RULES.get(head[0])
        before = head[0]
        if rules is not None:
            words = list(_WORD.finditer(lowered, head.start(), head.start() + _WINDOW_CHARS))[:_WINDOW_WORDS]
            window = " ".join(word[0] for word in words)
            for kind, pattern in rules:
                if found := pattern.match(window):
                    yield _span(head.start(), words[found[0].count(" ")].end(), kind)
    lines = f"\n{lowered}"
    for pattern in _MARKUP:
        for match in pattern.finditer(lines):
            yield _span(match.start(match.lastindex or 0) - 1, match.end(match.lastindex or 0) - 1, "injection.markup")


def hidden(text: str) -> Iterator[Span]:
    """Find signs that nobody sees, in a text as it was sent."""
    flags = {match.end() for match in _FLAG.finditer(text)}
    for match in _HIDDEN.finditer(text):
        if match.end() not in flags:
            yield _span(match.start(), match.end(), "injection.hidden")


def _span(start: int, end: int, kind: str) -> Span:
    return Span(start, end, kind, kind, Certainty.FORM)
