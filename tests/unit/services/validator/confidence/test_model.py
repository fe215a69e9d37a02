"""A fitted model: written, read, chosen by target and task, and read again when its file changes."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.validator.confidence.artefact import MAX_BYTES, ArtefactInvalid, read, written
from services.validator.confidence.fit import main
from services.validator.confidence.fitting import TooFew, fit
from services.validator.confidence.formula import Formula
from services.validator.confidence.model import Expectation, Model, Section
from services.validator.confidence.novelty import Reference
from services.validator.confidence.outcome import Outcome, OutcomeInvalid
from services.validator.confidence.outcome import read as read_outcomes
from services.validator.confidence.question import Question, Sample
from services.validator.confidence_file import ConfidenceFile
from services.validator.settings import ConfidenceSettings
from spillway.settings import SettingsError

KNOWN, FOREIGN = ("order", "refund", "late", "please", "label"), ("quark", "sonnet", "lemma", "basalt", "fugue")


def lines(count: int, *, target: str = "small") -> list[str]:
    """Outcomes of a model that is as sure of foreign prompts as of known ones, and wrong there."""
    chance = random.Random(4)
    found = []
    for index in range(count):
        foreign = index % 3 == 0
        words = [chance.choice(FOREIGN if foreign else KNOWN) for _ in range(8)]
        line: dict[str, Any] = {
            "target": target,
            "task": "classify",
            "prompt": " ".join(words),
            "answer": "billing",
            "logprobs": [["bill", -0.01 * chance.random()], ["ing", -0.01, [["ed", -5.0], ["ing", -0.01]]]],
            "right": not foreign,
        }
        found.append(json.dumps(line))
    return found


def outcomes(count: int, *, target: str = "small") -> list[Outcome]:
    return list(read_outcomes(line.encode() for line in lines(count, target=target)))


def question(prompt: str, *, target: str = "small", task: str = "classify") -> Question:
    return Question(Sample("billing"), target=target, task=task, prompt=prompt)


def fitted(count: int = 240) -> Model:
    return read(written("fitted", [each.section for each in fit(outcomes(count), Formula(0.0, {}), lambda _: None)]))


def test_a_confident_answer_to_a_prompt_unlike_any_answered_well_scores_low() -> None:
    model = fitted()
    known, foreign = model.score(question("refund late order please")), model.score(question("basalt fugue lemma"))
    assert known.score is not None
    assert foreign.score is not None
    assert known.score > 0.8
    assert foreign.score < 0.2
    assert known.model.startswith("fitted@")


def test_the_nearest_section_speaks_target_and_task_before_target_before_task_before_all() -> None:
    sections = [
        Section(Formula(0.0, {}), target, task) for target, task in [("", ""), ("", "t"), ("a", ""), ("a", "t")]
    ]
    model = Model(tuple(sections))
    asked = [("a", "t"), ("a", "u"), ("b", "t"), ("b", "u")]
    assert [model.section(*each) for each in asked] == [sections[3], sections[2], sections[1], sections[0]]


def test_a_model_says_the_same_after_it_was_written() -> None:
    section = Section(
        Formula(0.25, {"novelty": -2.5}, ((-1.0, 0.1), (1.0, 0.9))),
        "a",
        "chat",
        Expectation(2.0, 0.5),
        Reference(b"\7" * 8),
    )
    again = read(written("x", [section])).sections[0]
    assert (again.formula, again.target, again.task, again.expectation) == (
        section.formula,
        "a",
        "chat",
        section.expectation,
    )
    assert again.reference is not None
    assert section.reference is not None
    assert again.reference.written() == section.reference.written()


def test_the_revision_is_of_the_content() -> None:
    one, other = (read(written("x", [Section(Formula(intercept, {}))])).sections[0].model for intercept in (0.0, 1.0))
    assert one.startswith("x@")
    assert one != other


def test_no_text_of_a_prompt_is_in_a_model() -> None:
    found = [each.section for each in fit(outcomes(240), Formula(0.0, {}), lambda _: None)]
    content = written("x", found).decode()
    assert not [word for word in (*KNOWN[:4], *FOREIGN) if word in content]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"format": 2}, "format"),
        ({"sections": []}, "sections"),
        ({"sections": [{"weights": {"canary": 1}}]}, "sections.0.weights"),
        ({"sections": [{"weights": {"novelty": 1e9}}]}, "sections.0.weights.novelty"),
        ({"sections": [{"intercept": float("inf")}]}, "sections.0.intercept"),
        ({"sections": [{"calibration": [[0, 0.5], [0, 0.6]]}]}, "sections.0.calibration"),
        ({"sections": [{"calibration": [[0, 0.5], [1, 0.4]]}]}, "sections.0.calibration"),
        ({"sections": [{"calibration": [[0, 1.5]]}]}, "sections.0.calibration.0.1"),
        ({"sections": [{"length": {"mean": 1, "deviation": 0}}]}, "sections.0.length.deviation"),
        ({"sections": [{"reference": "%%"}]}, "sections.0.reference"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_is_no_model_is_refused_by_its_field(change: dict[str, Any], place: str) -> None:
    content = json.dumps({"format": 1, "name": "x", "sections": [{}]} | change).encode()
    with pytest.raises(ArtefactInvalid) as caught:
        read(content)
    assert str(caught.value).startswith(f"{place}: ")


def test_a_model_too_large_to_be_one_is_not_read() -> None:
    with pytest.raises(ArtefactInvalid, match="bytes"):
        read(b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("{", "line 2: "),
        ('{"target": "a", "answer": "x"}', "line 2: right: "),
        ('{"target": "a", "answer": "x", "right": "canary"}', "line 2: right: "),
        ('{"target": "a", "answer": "x", "right": "yes"}', "line 2: right: "),
        ('{"target": "a", "answer": "x", "right": true, "logprobs": [["x", NaN]]}', "line 2: logprobs.0."),
        ('{"target": "a", "answer": "x", "right": true, "judge": 2}', "line 2: judge: "),
        ('{"target": "a", "answer": "x", "right": true, "logprobs": [["x", 1.0]]}', "line 2: logprobs.0."),
        ('{"target": "a", "answer": "x", "right": true, "schema": "{canary"}', "line 2: schema: "),
    ],
)
def test_a_line_that_is_no_outcome_is_named_and_not_quoted(line: str, place: str) -> None:
    with pytest.raises(OutcomeInvalid) as caught:
        list(read_outcomes([lines(1)[0].encode(), line.encode()]))
    assert str(caught.value).startswith(place)
    assert "canary" not in str(caught.value)


def test_too_few_outcomes_or_one_kind_alone_are_refused_saying_what_is_missing() -> None:
    for few in (outcomes(30), [outcome for outcome in outcomes(400) if outcome.right], []):
        with pytest.raises(TooFew, match="at least 100 outcomes of one target"):
            fit(few, Formula(0.0, {}), lambda _: None)


def test_a_target_with_too_few_is_left_out_and_named() -> None:
    told: list[str] = []
    found = fit([*outcomes(240), *outcomes(30, target="other")], Formula(0.0, {}), told.append)
    assert {each.section.target for each in found} == {"small"}
    assert any("other" in line and "too few" in line for line in told)


def test_the_command_writes_model_and_picture_and_says_how_good_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outcomes").write_text("\n".join(lines(240)))
    out, picture = tmp_path / "model.json", tmp_path / "curve.svg"
    assert main([str(tmp_path / "outcomes"), "--out", str(out), "--picture", str(picture), "--name", "mine"]) == 0
    told = capsys.readouterr()
    assert "240 outcomes, 160 right" in told.err
    assert "small, all tasks" in told.out
    assert "% of them right" in told.out
    assert read(out.read_bytes()).section("small", "classify").model.startswith("mine@")
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(("content", "code"), [("{", 1), ("", 1), (None, 2)])
def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path: Path, content: str | None, code: int) -> None:
    if content is not None:
        (tmp_path / "outcomes").write_text(content)
    assert main([str(tmp_path / "outcomes"), "--out", str(tmp_path / "model.json")]) == code
    assert not (tmp_path / "model.json").exists()


async def test_a_model_file_is_in_force_as_it_changes_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(written("one", [Section(Formula(0.0, {"no_judge": 3.0}), "small")]))
    file = await asyncio.to_thread(ConfidenceFile, ConfidenceSettings(model_file=path))
    assert file.model.section("small", "chat").model.startswith("one@")
    assert file.model.section("other", "").model.startswith("plain@")
    path.write_text("{")
    await file.look()
    assert file.model.section("small", "").model.startswith("one@")
    path.unlink()
    await file.look()
    assert file.model.section("small", "").model.startswith("one@")
    path.write_bytes(written("two", [Section(Formula(0.0, {}), "small")]))
    await file.look()
    assert file.model.section("small", "").model.startswith("two@")


def test_a_model_file_that_is_none_stops_the_start(tmp_path: Path) -> None:
    for content in (None, "{}"):
        if content is not None:
            (tmp_path / "model.json").write_text(content)
        with pytest.raises(SettingsError, match=r"validator\.confidence\.model_file"):
            ConfidenceFile(ConfidenceSettings(model_file=tmp_path / "model.json"))


def test_a_task_has_a_section_of_its_own_only_where_that_does_better() -> None:
    half = outcomes(240)
    alike = [replace(each, question=replace(each.question, task="extract")) for each in half]
    contrary = [replace(each, right=not each.right) for each in alike]
    sections = []
    for other in (alike, contrary):
        found = fit([*half, *other], Formula(0.0, {}), lambda _: None)
        sections.append({each.section.task for each in found})
    assert sections == [{""}, {"", "classify", "extract"}]


def test_an_unknown_sign_is_taken_for_a_usual_one_where_all_outcomes_had_it() -> None:
    model = fitted()
    known, unknown, foreign = (model.score(question(prompt)).score for prompt in ("refund order", "", "basalt fugue"))
    assert known is not None
    assert foreign is not None
    assert unknown is None  # nothing at all is known then
    asked = replace(question(""), judge=0.5)
    told = model.score(asked).score
    assert told is not None
    assert foreign < told < known
