from __future__ import annotations

import pytest
from eld import LanguageDetector
from eld.languageData import languageData
from pydantic import ValidationError

from services.validator.rules.language import NAMES, LanguageSettings, language
from spillway import v1
from tests.unit.services.validator.judging import asked, judging

SAID = {
    "en": "Your parcel will arrive tomorrow morning.",
    "fr": "Votre colis arrivera demain dans la matinée.",
    "de": "Ihr Paket kommt morgen früh bei Ihnen an.",
    "es": "Su paquete llegará mañana por la mañana.",
    "it": "Il suo pacco arriverà domani mattina presto.",
    "nl": "Uw pakket komt morgenochtend bij u aan.",
    "pl": "Państwa paczka dotrze jutro rano do domu.",
    "ru": "Ваша посылка прибудет завтра утром домой.",
    "ja": "お荷物は明日の朝に届く予定です。",
}


@pytest.mark.parametrize("spoken", SAID)
def test_an_answer_in_another_language_is_found_and_one_in_a_right_one_never(spoken: str) -> None:
    for wanted in SAID:
        found = language(LanguageSettings(kind="language", languages=(wanted,))).findings(SAID[spoken])
        assert bool(found) is (wanted != spoken), (wanted, spoken)
        assert all(f"the answer is in {NAMES[spoken]}; answer in {NAMES[wanted]}" == one.message for one in found)


@pytest.mark.parametrize("text", ["", "OK", "42", "Paris, London", "https://a.example/b?c=1", "[1, 2, 3]", "nein"])
def test_of_what_is_too_short_nothing_is_said(text: str) -> None:
    assert language(LanguageSettings(kind="language", languages=("ja",))).findings(text) == ()


def test_every_language_that_can_be_asked_for_is_one_that_can_be_told() -> None:
    LanguageDetector()  # reads its tables
    assert set(NAMES) <= set(languageData.lang_codes.values())
    with pytest.raises(ValidationError, match="'xx' is not one of en, fr"):
        LanguageSettings(kind="language", languages=("xx",))


async def test_a_worker_tells_the_language_and_a_right_answer_is_left_alone() -> None:
    policies = {"german": {"rules": [{"kind": "language", "languages": ["de"]}, {"kind": "length", "max_words": 90}]}}
    async with judging(policies) as served:
        right, wrong = (await served.ask(asked(SAID["de"], SAID["fr"], policies=("german",)))).verdicts
    assert right == v1.Verdict(decision=v1.VERDICT_DECISION_ACCEPT)
    (finding,) = wrong.findings
    assert (finding.kind, finding.rule) == (v1.FINDING_KIND_LANGUAGE, "german.language")
