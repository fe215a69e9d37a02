"""How much is found: on texts of others, and on seeded identifiers whose check digits are made here, another way."""

from __future__ import annotations

import json
import os
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.validator.sensitive.inspection import inspect
from services.validator.sensitive.redaction import redact, restore

ENOUGH = 0.95
FALSE_ALARMS = 0.01
KINDS = {
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip_address",
}
SENTENCES = ("Please note {} for the file.", "{}", "Here it is:\n{}\nRegards", "Old: {}, new to follow", "« {} »")
Maker = Callable[[random.Random], str]


def rows(*path: str) -> Iterator[dict[str, Any]]:
    file = Path(os.environ.get("SPILLWAY_DATA", ""), *path)
    if not os.environ.get("SPILLWAY_DATA") or not file.exists():
        pytest.skip("SPILLWAY_DATA does not name the measuring data")
    with file.open() as lines:
        yield from map(json.loads, lines)


@pytest.mark.conformance
def test_of_each_kind_in_the_texts_of_others_at_least_95_of_100_are_found_whole() -> None:
    wanted: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for row in rows("pii", "synthetic_texts.jsonl"):
        found = {(span.kind, span.start, span.end) for span in inspect(row["text"])}
        for span in row["spans"]:
            if kind := KINDS.get(span["type"]):
                wanted[kind] += 1
                hits[kind] += (kind, span["start"], span["end"]) in found
    print({kind: f"{hits[kind]} of {wanted[kind]}" for kind in wanted})
    assert set(wanted) == set(KINDS.values())
    assert {kind for kind in wanted if hits[kind] < ENOUGH * wanted[kind]} == set()


@pytest.mark.conformance
def test_the_texts_of_others_come_back_as_they_were() -> None:
    texts = [row["text"] for row in rows("pii", "synthetic_texts.jsonl")]
    told = redact(texts, frozenset(), ())
    assert told.places > 200
    assert restore(told.texts, told.placeholders, 10**6) == texts
    assert not [text for text in told.texts if any(span.kind in KINDS.values() for span in inspect(text))]


@pytest.mark.conformance
def test_of_texts_without_any_at_most_1_of_100_gives_an_alarm() -> None:
    questions = [row["prompt"] for row in rows("routing", "questions.jsonl")]
    alarms = sum(bool(inspect(question)) for question in questions)
    clean = [
        row["text"] for row in rows("pii", "synthetic_texts.jsonl") if not any(s["type"] in KINDS for s in row["spans"])
    ]
    others = sum(bool(inspect(text)) for text in clean)
    print(f"{alarms} of {len(questions)} questions, {others} of {len(clean)} texts")
    assert alarms <= FALSE_ALARMS * len(questions)
    assert others <= FALSE_ALARMS * len(clean)


def digits(dice: random.Random, count: int) -> str:
    return "".join(dice.choice(string.digits) for _ in range(count))


def letters(dice: random.Random, count: int, among: str = string.ascii_letters + string.digits) -> str:
    return "".join(dice.choice(among) for _ in range(count))


def grouped(dice: random.Random, number: str, *sizes: int, separators: str = " -") -> str:
    """`number` in one piece or in groups of `sizes`."""
    separator: str = dice.choice(["", "", *separators])
    groups: list[str] = []
    position = 0
    for size in sizes:
        groups.append(number[position : position + size])
        position += size
    return separator.join(groups)


def card(dice: random.Random) -> str:
    prefix, length = dice.choice(
        [("4", 16), ("51", 16), ("2720", 16), ("6011", 16), ("3528", 16), ("62", 16), ("2200", 16)]
    )
    body = prefix + digits(dice, length - len(prefix) - 1)
    for check in string.digits:  # Luhn, from the right: every second digit doubled, its own digits added
        total = sum(sum(map(int, str(int(one) * (1 + place % 2)))) for place, one in enumerate(reversed(body + check)))
        if total % 10 == 0:
            return grouped(dice, body + check, 4, 4, 4, 4)
    raise AssertionError(body)


def iban(dice: random.Random) -> str:
    country, structure = dice.choice(
        [
            ("FR", "nnnnnnnnnncccccccccccnn"),
            ("DE", "n" * 18),
            ("GB", "aaaa" + "n" * 14),
            ("ES", "n" * 20),
            ("IT", "annnnnnnnnncccccccccccc"),
            ("NL", "aaaa" + "n" * 10),
            ("PL", "n" * 24),
            ("NO", "n" * 11),
        ]
    )
    among = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    body = "".join(dice.choice(among[kind]) for kind in structure)
    remainder = 0
    for character in f"{body}{country}00":  # piecewise, as one would by hand
        value = string.digits.find(character)
        value = value if value >= 0 else string.ascii_uppercase.index(character) + 10
        remainder = (remainder * (10 if value < 10 else 100) + value) % 97
    whole = f"{country}{98 - remainder:02}{body}"
    return grouped(dice, whole, *[4] * (len(whole) // 4), *([len(whole) % 4] if len(whole) % 4 else []), separators=" ")


def fr(dice: random.Random) -> str:
    corsica = {"2A": -1_000_000, "2B": -2_000_000}  # of a department 20: how INSEE puts it
    department = dice.choice([f"{dice.randrange(1, 96):02}", "99", *corsica])
    head = f"{dice.choice('12')}{digits(dice, 2)}{dice.randrange(1, 13):02}"
    tail = f"{dice.randrange(1, 990):03}{dice.randrange(1, 1000):03}"
    number = int(head + department.replace("A", "0").replace("B", "0") + tail) + corsica.get(department, 0)
    return grouped(dice, f"{head}{department}{tail}{97 - number % 97:02}", 1, 2, 2, 2, 3, 3, 2, separators=" .\u00a0")


def uk(dice: random.Random) -> str:
    while (prefix := letters(dice, 1, "ABCEGHJKLMNOPRSTWXYZ") + letters(dice, 1, "ABCEGHJKLMNPRSTWXYZ")) in (
        *("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"),
    ):
        pass
    number = grouped(dice, prefix + digits(dice, 6) + dice.choice("ABCD"), 2, 2, 2, 2, 1)
    return number.lower() if dice.random() < 0.2 else number


def us(dice: random.Random) -> str:
    area = dice.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03}-{dice.randrange(1, 100):02}-{dice.randrange(1, 10_000):04}"


def us_itin(dice: random.Random) -> str:
    group = dice.choice([*range(50, 66), *range(70, 89), 90, 91, 92, *range(94, 100)])
    return f"9{digits(dice, 2)}-{group}-{digits(dice, 4)}"


def uk_nhs(dice: random.Random) -> str:
    while True:
        nine = digits(dice, 9)
        check = 11 - sum(int(one) * (10 - place) for place, one in enumerate(nine)) % 11
        if check != 10:
            return "NHS number " + grouped(dice, f"{nine}{check % 11}", 3, 3, 4)


def fr_without_key(dice: random.Random) -> str:
    number = (
        f"{dice.choice('12')}{digits(dice, 2)}{dice.randrange(1, 13):02}{dice.randrange(1, 96):02}{digits(dice, 6)}"
    )
    return "NIR " + grouped(dice, number, 1, 2, 2, 2, 3, 3, separators=" ")


def de_pension(dice: random.Random) -> str:
    head = f"{digits(dice, 2)}{dice.randrange(1, 29):02}{dice.randrange(1, 13):02}{digits(dice, 2)}"
    letter, serial = dice.choice(string.ascii_uppercase), digits(dice, 2)
    number = head + f"{string.ascii_uppercase.index(letter) + 1:02}" + serial
    check = sum(
        sum(map(int, str(int(one) * weight)))
        for one, weight in zip(number, [2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1], strict=True)
    )
    return grouped(dice, f"{head}{letter}{serial}{check % 10}", 2, 6, 1, 3, separators=" ")


def de(dice: random.Random) -> str:
    while True:
        ten = dice.sample(string.digits, 9)
        ten.insert(dice.randrange(10), dice.choice(ten))
        if ten[0] != "0":
            break
    rest = 10  # ISO 7064 MOD 11,10
    for one in ten:
        rest = (rest + int(one)) % 10
        rest = (rest or 10) * 2 % 11
    return grouped(dice, "".join(ten) + str((11 - rest) % 10), 2, 3, 3, 3, separators=" ")


def de_card(dice: random.Random) -> str:
    alphabet = "0123456789CFGHJKLMNPRTVWXYZ"
    number = dice.choice("LMNPRTVWXY") + letters(dice, 8, alphabet)
    values = [int(one) if one.isdigit() else ord(one) - ord("A") + 10 for one in number]
    check = sum(value * weight for value, weight in zip(values, (7, 3, 1) * 3, strict=True)) % 10
    return f"Personalausweis {number}{check}"


def phone(dice: random.Random) -> str:

    def d(count: int) -> str:
        return digits(dice, count)

    first = dice.choice("23456789")
    return dice.choice(
        [
            f"+33 {first} {d(2)} {d(2)} {d(2)} {d(2)}",
            f"+33{first}{d(8)}",
            f"0{first} {d(2)} {d(2)} {d(2)} {d(2)}",
            f"0{first}.{d(2)}.{d(2)}.{d(2)}.{d(2)}",
            f"+44 20 {d(4)} {d(4)}",
            f"07{d(3)} {d(6)}",
            f"(0{first}{d(2)}) {d(3)} {d(4)}",
            f"+49 1{first}{d(1)} {d(7)}",
            f"0{first}{d(2)}/{d(7)}",
            f"+1 ({first}{d(2)}) {d(3)}-{d(4)}",
            f"{first}{d(2)}-{d(3)}-{d(4)}",
            f"({first}{d(2)}) {d(3)}-{d(4)}",
            f"+86 13{d(1)} {d(4)} {d(4)}",
            f"+971 50 {d(3)} {d(4)}",
            f"Tel. {first}{d(7)}",
        ]
    )


def ip_address(dice: random.Random) -> str:
    if dice.random() < 0.5:
        return ".".join(str(dice.randrange(1, 254)) for _ in range(4)).replace("127.", "126.", 1)
    groups = [f"{dice.randrange(0x1000, 0xFFFF):x}" for _ in range(8)]
    return ":".join(groups) if dice.random() < 0.5 else f"2001:db8:{groups[0]}::{groups[1]}"


def email(dice: random.Random) -> str:
    name = f"{letters(dice, 5)}{dice.choice(['.', '_', '-', '+', ''])}{letters(dice, 4)}"
    return f"{name}@{letters(dice, 6)}.{dice.choice(['com', 'co.uk', 'de', 'museum', 'example'])}"


def secret(dice: random.Random) -> str:
    base64 = string.ascii_letters + string.digits + "-_"
    named = f"{letters(dice, 3, string.ascii_lowercase)}{dice.randrange(10)}{letters(dice, 8)}"
    return dice.choice(
        [
            "AKIA" + letters(dice, 16, string.ascii_uppercase + "234567"),
            "gh" + dice.choice("pousr") + "_" + letters(dice, 36),
            "github_" + "pat_" + letters(dice, 22) + "_" + letters(dice, 59),
            f"xoxb-{digits(dice, 11)}-{letters(dice, 24)}",
            "AIza" + letters(dice, 35),
            "sk-" + "proj-" + letters(dice, 40, base64) + "7",
            "sk-" + letters(dice, 47) + "3",
            "sk-" + "ant-api03-" + letters(dice, 90, base64) + "a",
            "glpat-" + letters(dice, 20),
            f"eyJ{letters(dice, 30, base64)}.eyJ{letters(dice, 80, base64)}.{letters(dice, 43)}",
            f"-----BEGIN PRIVATE{' KEY'}-----\n{letters(dice, 200)}\n-----END PRIVATE{' KEY'}-----",
            f"password: {named}",
            f"SECRET_KEY='{named}'",
            f"the token is {named}",
            f"https://app:{named}@db:5432/x",
        ]
    )


MAKERS: dict[str, tuple[str, Maker]] = {
    "card": ("card", card),
    "iban": ("iban", iban),
    "national_id.fr": ("national_id", fr),
    "national_id.uk": ("national_id", uk),
    "national_id.us": ("national_id", us),
    "national_id.us_itin": ("national_id", us_itin),
    "national_id.uk_nhs": ("national_id", uk_nhs),
    "national_id.fr without key": ("national_id", fr_without_key),
    "national_id.de_pension": ("national_id", de_pension),
    "national_id.de": ("national_id", de),
    "national_id.de_card": ("national_id", de_card),
    "phone": ("phone", phone),
    "email": ("email", email),
    "ip_address": ("ip_address", ip_address),
    "secret": ("secret", secret),
}


@pytest.mark.parametrize("name", MAKERS)
def test_of_each_kind_made_with_valid_checksums_at_least_95_of_100_are_found(name: str) -> None:
    dice, (kind, make) = random.Random(20), MAKERS[name]
    missed = []
    for _ in range(400):
        written = make(dice)
        found = inspect(dice.choice(SENTENCES).format(written))
        if not any(span.kind == kind and name.split()[0] in (span.kind, span.rule) for span in found):
            missed.append(written)
    print(f"{400 - len(missed)} of 400")
    assert len(missed) <= (1 - ENOUGH) * 400, missed[:10]
