from __future__ import annotations

from xml.etree import ElementTree

from services.validator.confidence.picture import calibration_picture

SVG = "{http://www.w3.org/2000/svg}"


def test_a_curve_has_a_dot_for_each_tenth_that_has_answers_and_names_are_escaped() -> None:
    scores, right = [0.05, 0.95, 0.95, 0.95], [False, True, True, False]
    drawn = ElementTree.fromstring(
        calibration_picture("a & b", [("<one>", scores, right), ("two", scores[1:], right[1:])])
    )
    assert {"a & b", "<one> (4 answers)"} <= {text.text for text in drawn.iter(f"{SVG}text")}
    assert len(list(drawn.iter(f"{SVG}polyline"))) == 2
    dots = [dot for dot in drawn.iter(f"{SVG}circle") if dot.get("opacity")]
    assert len(dots) == 3
