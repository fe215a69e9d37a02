"""Recognisers of names and addresses: the one that is there, and those of others."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from services.validator.app import build
from services.validator.sensitive.inspection import inspect
from services.validator.sensitive.patterns import Patterns
from services.validator.sensitive.recogniser import GROUP, load, recognised
from services.validator.settings import InspectionSettings, ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.testing.server import LOOPBACK
from spillway.v1 import validator_pb2_grpc

DOCUMENT = Path(__file__).parents[5] / "docs" / "sensitive.md"


def found(text: str) -> list[tuple[str, str]]:
    (places,) = Patterns().find([text])
    return [(kind, text[start:end]) for start, end, kind in places]


def example() -> str:
    """The recogniser that the documentation shows."""
    return DOCUMENT.read_text().split("```python\n")[2].split("```")[0]


def install(folder: Path, source: str, *names: str) -> None:
    """A distribution with entry points, as an installer would leave it."""
    (folder / "ours.py").write_text(source)
    info = folder / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    entries = "".join(f"{name} = ours:Staff\n" for name in names)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}")


@pytest.mark.parametrize(
    ("text", "kind", "written"),
    [
        ("My name is Rubija Novak.", "name", "Rubija Novak"),
        ("we met Dr. van der Berg", "name", ""),
        ("a letter to Mrs. O'Neil, please", "name", "O'Neil"),
        ("Je m'appelle Thérèse de la Tour", "name", "Thérèse de la Tour"),
        ("Herr Grünwald kommt", "name", "Grünwald"),
        ("then Natalie J. Fox's bill", "name", "Natalie J. Fox"),
        ("Regards,\nTomasz Lis", "name", "Tomasz Lis"),
        ("it is at 221B Baker Street, London NW1 6XE.", "address", "221B Baker Street, London NW1 6XE"),
        ("send it to 1600 Pennsylvania Avenue NW", "address", "1600 Pennsylvania Avenue"),
        ("at 12 bis, rue de la Paix, 75002 Paris", "address", "12 bis, rue de la Paix, 75002 Paris"),
        ("wohnt Hauptstraße 5a, 10115 Berlin", "address", "Hauptstraße 5a, 10115 Berlin"),
        ("P.O. Box 149, Springfield, IL 62704", "address", "P.O. Box 149, Springfield, IL 62704"),
        ("Calle Mayor, 3", "address", "Calle Mayor, 3"),
    ],
)
def test_names_and_addresses_are_found_by_what_stands_beside_them(text: str, kind: str, written: str) -> None:
    assert found(text) == ([(kind, written)] if written else [])


@pytest.mark.parametrize(
    "text",
    [
        "I am Canadian and this is Python. Hello World, dear Sir or Madam",
        "Paris, Victoria and Georgia in May; Jordan has a border",
        "3 days on the road, 4 ways to the court, the 1826 law in the Supreme Court",
        "10 am to 2, at 9 AM this week",
        "the street was long, and the avenue 12 m wide",
        "",
    ],
)
def test_words_with_capitals_are_no_names_and_numbers_no_addresses(text: str) -> None:
    assert found(text) == []


def test_a_family_name_counts_wherever_it_stands_again() -> None:
    text = "Laura Carvalho came. Later Carvalho left"
    assert found(text) == [("name", "Laura Carvalho"), ("name", "Carvalho")]


@pytest.mark.parametrize(
    "piece", ["Anna ", "12 Main ", "rue ", "12 rue de ", "straße 5 ", "Mr. ", "a ", "Apt. 5\n", "P.O. Box 1"]
)
def test_a_long_hostile_text_ends(piece: str) -> None:
    text = piece * (40_000 // len(piece))
    assert all(0 <= start < end <= len(text) for places in Patterns().find([text]) for start, end, _ in places)


def test_our_rules_go_before_what_a_recogniser_says() -> None:
    text = "call Anna on 4111 1111 1111 1111"
    recogniser = SimpleNamespace(kinds={"name"}, find=lambda texts: [[(5, len(text), "name")]])
    spans = inspect(text, recognised(recogniser, "x", [text])[0])
    assert [(span.kind, span.rule) for span in spans] == [("card", "card.visa")]


@pytest.mark.parametrize("places", [[(0, 9, "name")], [(2, 2, "name")], [(-1, 2, "name")], [(0, 1, "other")]])
def test_who_tells_a_place_that_is_none_is_not_believed(places: list[tuple[int, int, str]]) -> None:
    recogniser = SimpleNamespace(kinds={"name"}, find=lambda texts: [places])
    with pytest.raises(ValueError, match="none"):
        recognised(recogniser, "x", ["short"])
    with pytest.raises(ValueError, match="1 of 2"):
        recognised(SimpleNamespace(kinds={"name"}, find=lambda texts: [[]]), "x", ["a", "b"])


@pytest.mark.parametrize("inline_chars", [10_000, 0])
async def test_a_recogniser_of_somebody_elses_works_in_the_workers(
    inline_chars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, example(), "staff")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    inspection = InspectionSettings(recogniser="staff", inline_chars=inline_chars)
    settings = ValidatorSettings(server=LOOPBACK, inspection=inspection, workers=WorkerSettings(processes=1))
    async with build(settings) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        stub = validator_pb2_grpc.ValidatorServiceStub(channel)
        text = "😀 J. Doe and a@b.example"
        seen = await stub.InspectInput(v1.InspectInputRequest(texts=[text]), timeout=60)
        told = await stub.Redact(v1.RedactRequest(texts=[text, "[NAME_7]"], kinds=["name"]), timeout=60)
    assert [(span.start, span.end, span.rule) for span in seen.spans] == [(2, 8, "name.staff"), (13, 24, "email")]
    assert list(told.texts) == ["😀 [NAME_1] and a@b.example", "[PLACEHOLDER_1]"]


async def test_the_example_of_the_docs_says_what_the_docs_say() -> None:
    source, _, told = DOCUMENT.read_text().split("```python\n")[1].split("```")[:3]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.decode() == told.lstrip()


async def test_a_recogniser_that_nobody_has_is_told_at_the_start() -> None:
    inspection = InspectionSettings(recogniser="pattern")
    settings = ValidatorSettings(server=LOOPBACK, inspection=inspection, workers=WorkerSettings(processes=1))
    with pytest.raises(OSError, match="0 distributions have the recogniser 'pattern'; there are patterns"):
        async with build(settings):
            raise AssertionError("it started")


def test_the_one_that_is_always_there_needs_no_entry_point() -> None:
    assert repr(load("patterns")) == "<Patterns name, address>"


@pytest.mark.conformance
def test_how_much_the_one_that_is_always_there_finds_in_the_texts_of_others() -> None:
    file = Path(os.environ.get("SPILLWAY_DATA", ""), "pii", "synthetic_texts.jsonl")
    if not os.environ.get("SPILLWAY_DATA") or not file.exists():
        # The texts are measuring data, which is not in the repository.
        pytest.skip("SPILLWAY_DATA does not name the measuring data")
    whole: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    beside: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for row in map(json.loads, file.read_text().strip().split("\n")):
        (places,) = Patterns().find([row["text"]])
        for kind, types in (("name", ("PERSON", "TITLE")), ("address", ("STREET_ADDRESS", "ZIP_CODE", "GPE"))):
            ours = {(start, end) for start, end, of in places if of == kind}
            labels = [(span["start"], span["end"]) for span in row["spans"] if span["type"] in types]
            told[kind] += len(ours)
            beside[kind] += sum(not any(overlap(one, label) for label in labels) for one in ours)
            for label in [(span["start"], span["end"]) for span in row["spans"] if span["type"] == types[0]]:
                wanted[kind] += 1
                whole[kind] += label in ours
                seen = sum(overlap(one, label) for one in ours)
                covered[kind] += seen >= 0.9 * (label[1] - label[0])
                touched[kind] += seen > 0
    for kind in wanted:
        print(f"{kind}: {whole[kind]} whole, {covered[kind]} covered, {touched[kind]} touched of {wanted[kind]}")
        print(f"{beside[kind]} of {told[kind]} are none")
    assert whole["name"] >= 0.45 * wanted["name"]
    assert touched["address"] >= 0.5 * wanted["address"]
    assert all(beside[kind] <= 0.1 * told[kind] for kind in told)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))
