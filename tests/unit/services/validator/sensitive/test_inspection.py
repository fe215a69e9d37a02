"""What is found in a text, and what is not. Numbers are published examples; keys are put together here."""

from __future__ import annotations

import itertools

import pytest

from services.validator.sensitive.inspection import inspect

KEY = "Zk3" * 20


def found(text: str) -> list[tuple[str, str]]:
    return [(span.rule, text[span.start : span.end]) for span in inspect(text)]


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        ("card.visa", "4111111111111111"),
        ("card.visa", "4111 1111 1111 1111"),
        ("card.mastercard", "5555-5555-5555-4444"),
        ("card.mastercard", "2223003122003222"),
        ("card.amex", "3782 822463 10005"),
        ("card.diners", "3056 930902 5904"),
        ("card.discover", "6011111111111117"),
        ("card.jcb", "3530111333300000"),
        ("card.unionpay", "6200000000000005"),
        ("iban.gb", "GB82 WEST 1234 5698 7654 32"),
        ("iban.de", "DE89370400440532013000"),
        ("iban.de", "de89 3704 0044 0532 0130 00"),
        ("iban.fr", "FR14 2004 1010 0505 0001 3M02 606"),
        ("iban.no", "NO93 8601 1117 947"),
        ("iban.mt", "MT84MALT011000012345MTLCAST001S"),
        ("national_id.fr", "2 55 08 14 168 025 38"),
        ("national_id.fr", "255081416802538"),
        ("national_id.uk", "AB 12 34 56 C"),
        ("national_id.uk", "ab123456c"),
        ("national_id.us", "078-05-1120"),
        ("national_id.us_itin", "912-94-1234"),
        ("national_id.de_pension", "15 070649 C 103"),
        ("national_id.de", "86095742719"),
        ("national_id.de", "65 929 970 489"),
        ("phone.international", "+33 6 12 34 56 78"),
        ("phone.international", "+44 (0)20 7946 0958"),
        ("phone.international", "0049 30 901820"),
        ("phone.international", "+1-903-555-0123x769"),
        ("phone.national", "(602) 555-0199"),
        ("phone.national", "1-800-555-0199"),
        ("phone.national", "06 12 34 56 78"),
        ("phone.national", "0612345678"),
        ("phone.national", "(020) 7946 0958"),
        ("phone.national", "030/90182000"),
        ("email", "jane.o'neil+x@mail.example.co.uk"),
        ("email", "jürgen@münchen.example"),
        ("email", "ann.lee%40mail.example.org"),
        ("email", r"ann.lee\u0040example.org"),
        ("ip_address.v4", "10.20.30.40"),
        ("ip_address.v6", "2001:db8::8a2e:370:7334"),
        ("ip_address.v6", "fe80::1"),
        ("ip_address.v6", "::ffff:192.0.2.128"),
        ("secret.aws", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("secret.github", "ghp_" + KEY[:36]),
        ("secret.slack", "xoxb-" + "2501234567-" + KEY[:24]),
        ("secret.google", "AIza" + KEY[:35]),
        ("secret.openai", "sk-" + "proj-" + KEY[:48]),
        ("secret.anthropic", "sk-" + "ant-api03-" + KEY),
        ("secret.stripe", "sk_" + "live_" + KEY[:24]),
        ("secret.jwt", "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dozjgNryP4J3jVmNHl0w"),
        ("secret.private_key", "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIE\n-----END RSA PRIVATE" + " KEY-----"),
    ],
)
def test_an_identifier_is_found_whole_wherever_it_stands(rule: str, written: str) -> None:
    for text in (written, f"Ünïcode 😀 first: {written}.", f"({written}), then more", f"a\n{written}\n12 b"):
        assert found(text) == [(rule, written)]


@pytest.mark.parametrize(
    ("text", "rule", "written"),
    [
        ("my ssn is 278 05 1120", "national_id.us", "278 05 1120"),
        ("Social Security: 278051120", "national_id.us", "278051120"),
        ("ITIN: 912 70 1234", "national_id.us_itin", "912 70 1234"),
        ("NHS no. 9434765919", "national_id.uk_nhs", "9434765919"),
        ("numéro de sécurité sociale : 2 55 08 14 168 025", "national_id.fr", "2 55 08 14 168 025"),
        ("Personalausweis Nr. T220001293", "national_id.de_card", "T220001293"),
        ("call me at 467 3395", "phone.national", "467 3395"),
        ("Telefon: 60-56-85-91", "phone.national", "60-56-85-91"),
        ("password: hunter22", "secret.named", "hunter22"),
        ('{"api_key": "9f8e7d6c5b4a"}', "secret.named", "9f8e7d6c5b4a"),
        ("DB_PASSWORD=P@ssWord!", "secret.named", "P@ssWord"),
        ("the token is Xy7Qp2Lm.", "secret.named", "Xy7Qp2Lm"),
        ("Authorization: Bearer mF9B5f41JqM3kkkkk", "secret.bearer", "mF9B5f41JqM3kkkkk"),
        ("postgres://app:s3cr3tpw@db/x", "secret.url", "s3cr3tpw"),
    ],
)
def test_what_has_a_common_form_is_found_by_the_words_before_it(text: str, rule: str, written: str) -> None:
    assert found(text) == [(rule, written)]
    assert found(f"Value {written} here") == []


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # the check digit is wrong
        "1111111111111117",  # nobody issues these
        "0.4111111111111111",
        "GB82 WEST 1234 5698 7654 33",
        "GB82 WEST 1234 5698 7654 3",
        "ZZ82123456987654321234",
        "2 55 08 14 168 025 39",
        "BG123456A, QQ123456C, AB123456E",
        "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",
        "86095742718, 11111111111",
        "912-93-1234, 912-49-1234, 912-66-1234",
        "NHS 9434765918",
        "15 070649 C 104, 15 320649 C 103",
        "4111\n1111\n1111\n1111, a column\n06 12 34 56\n78",
        "4111 1111\n\n1111 1111",
        "Personalausweis T220001294",
        "+12 34, +999 12345678",
        "contact us between 2007-2008 or on 21.11.2026",
        "version 1.2.3.4, 256.1.1.1, 127.0.0.1, 255.255.255.0, 1.2.3.4.5",
        "std::vector<abc::def>, 12:30:45, 1:2:3:4:5:6:7:8, aa:bb:cc:dd:ee:ff, ::1",
        "user@localhost, @handle, a@b",
        "password: ${DB_PASSWORD1}, token = get_token1(), secret: <your secret 1>, the secret is honesty",
        "sk-this-is-only-a-hyphenated-name",
        "ISBN 0306406152",
        "pi is 3.14159265358979, in 1837-1843 there were 250000000",
        "",
    ],
)
def test_what_only_looks_like_an_identifier_is_none(text: str) -> None:
    assert found(text) == []


def test_corsica_counts_as_the_contract_of_insee_says() -> None:
    for department, stands_for in (("2A", "19"), ("2B", "18")):
        key = 97 - int(f"18507{stands_for}004123") % 97
        assert found(f"18507{department}004123{key:02}")[0][0] == "national_id.fr"


def test_signs_of_other_scripts_count_as_what_they_are_and_places_are_code_points() -> None:
    number = "4111\u00a01111\u20111111\u00a01111".replace("\u2011", "\u202f")  # a narrow space among wide ones
    full_width = "".join(chr(0xFF10 + int(digit)) for digit in "4111111111111111")
    for written in (number, full_width):
        (span,) = inspect(f"😀é {written}!")
        assert (span.kind, span.start, span.end) == ("card", 3, 3 + len(written))


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        ("card.visa", "4111\u200b1111\u206011\u00ad11\ufeff1111"),
        ("card.visa", "4111\u200b1111\u200b1111\u200b1111"),
        ("card.visa", "4111 1111\n1111 1111"),
        ("card.visa", "4111 1111 1111\r\n> 1111"),
        ("iban.de", "DE89 3704 0044\n   0532 0130 00"),
        ("national_id.fr", "2 55 08 14 168\n025 38"),
        ("national_id.us", "078\u200d-05-\u206a1120"),
        ("email", "ja\U000e0041ne@exam\u00adple.com"),
        ("secret.aws", "AKIA" + "IOSF\u200bODNN7EXAMPLE"),
    ],
)
def test_neither_signs_that_nobody_sees_nor_one_line_end_hide_an_identifier(rule: str, written: str) -> None:
    assert found(f"😀 {written}, and") == [(rule, written)]


def test_of_spans_that_overlap_the_most_certain_stays_then_the_longest() -> None:
    assert found("call 4111 1111 1111 1111") == [("card.visa", "4111 1111 1111 1111")]
    assert found("https://me:pa55word@mail.example.com/") == [("email", "pa55word@mail.example.com")]
    key = "ghp_" + KEY[:36]
    assert found(f"token={key}") == [("secret.github", key)]


def test_a_code_after_a_card_is_not_of_the_card() -> None:
    assert found("4111 1111 1111 1111 123")[0] == ("card.visa", "4111 1111 1111 1111")
    assert found("1234 4111 1111 1111 1111")[0] == ("card.visa", "4111 1111 1111 1111")


def test_a_private_key_that_is_cut_off_goes_to_the_end() -> None:
    text = "see -----BEGIN PRIVATE" + " KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ"
    assert found(text) == [("secret.private_key", text[4:])]


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "4 ",
            "4111 ",
            "GB12 ",
            "a@",
            "@a.",
            ":",
            "ab1:",
            "1.",
            "eyJ",
            "password=",
            "sk-",
            "://a:b",
            "01 ",
            "+1 ((",
        ),
        *("1\n", "4111\n", "GB12\r\n", "\u200b1", "9\u2060@", "nhs 943 ", "943 476 5919 ", "nir 2550814168025 "),
        *("phone 12 34 ", "xoxb-", "-----BEGIN PRIVATE" + " KEY-----", "ssn 123456789 ", "１é", "bearer ", "\u00a0"),
    ],
)
def test_a_long_hostile_text_ends_and_its_spans_never_overlap(piece: str) -> None:
    text = piece * (40_000 // len(piece))
    spans = inspect(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= next_.start for one, next_ in itertools.pairwise(spans))
