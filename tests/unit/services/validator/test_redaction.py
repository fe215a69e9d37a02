"""Redact and Restore as their callers meet them: a real server, real workers, a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.validator.app import build
from services.validator.sensitive.redaction import redact, restore
from services.validator.settings import InspectionSettings, ValidatorSettings, WorkerSettings
from spillway import errors, v1
from spillway.placeholders import Placeholder
from spillway.rpc.status import from_rpc_error
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import validator_pb2_grpc

CARD = "4111 1111 1111 1111"
TEXTS = ["Ünïcode 😀: write to canary@b.example", f"or pay {CARD}, canary@b.example", "nothing [EMAIL_1]"]
MADE = [v1.Placeholder(token="[EMAIL_2]", original="canary@b.example", kind="email")]


class Validator:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = validator_pb2_grpc.ValidatorServiceStub(channel)

    async def redact(
        self, texts: Sequence[str], kinds: Sequence[str] = (), placeholders: Sequence[v1.Placeholder] = ()
    ) -> v1.RedactResponse:
        try:
            request = v1.RedactRequest(texts=texts, kinds=kinds, placeholders=placeholders)
            told: v1.RedactResponse = await self._stub.Redact(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return told

    async def restore(self, texts: Sequence[str], placeholders: Sequence[v1.Placeholder]) -> list[str]:
        try:
            request = v1.RestoreRequest(texts=texts, placeholders=placeholders)
            return list((await self._stub.Restore(request, timeout=60)).texts)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


@asynccontextmanager
async def validator(
    inspection: InspectionSettings | None = None, tracing: Tracing | None = None
) -> AsyncIterator[Validator]:
    settings = ValidatorSettings(
        server=LOOPBACK, inspection=inspection or InspectionSettings(), workers=WorkerSettings(processes=1)
    )
    async with build(settings, tracing=tracing) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        yield Validator(channel)


@pytest.mark.parametrize("inline_chars", [10_000, 0])
async def test_what_redact_takes_out_restore_puts_back_at_once_or_by_a_worker(inline_chars: int) -> None:
    async with validator(InspectionSettings(inline_chars=inline_chars)) as served:
        told = await served.redact(TEXTS)
        again = await served.redact([f"{CARD} c@d.example"], placeholders=told.placeholders)
        answers = await served.restore(["Done, [email_1] and [CARD_1].", *told.texts], told.placeholders)
    assert list(told.texts) == [
        "Ünïcode 😀: write to [EMAIL_1]",
        "or pay [CARD_1], [EMAIL_1]",
        "nothing [PLACEHOLDER_1]",
    ]
    assert [(one.token, one.original, one.kind) for one in told.placeholders] == [
        ("[EMAIL_1]", "canary@b.example", "email"),
        ("[CARD_1]", CARD, "card"),
        ("[PLACEHOLDER_1]", "[EMAIL_1]", "placeholder"),
    ]
    assert answers == [f"Done, canary@b.example and {CARD}.", *TEXTS]
    assert list(again.texts) == ["[CARD_1] [EMAIL_2]"]
    assert list(again.placeholders[:3]) == list(told.placeholders)


async def test_only_the_kinds_that_are_asked_for_are_taken_out() -> None:
    async with validator() as served:
        told = await served.redact([*TEXTS, "https://me:pa55word@mail.example.com/"], kinds=["card", "secret"])
    assert list(told.texts) == [
        TEXTS[0],
        "or pay [CARD_1], canary@b.example",
        "nothing [PLACEHOLDER_1]",
        "https://me:[SECRET_1]@mail.example.com/",  # looked at as an e-mail address it would have stayed
    ]


@pytest.mark.parametrize(
    ("texts", "kinds", "placeholders", "field"),
    [
        ([], [], [], "texts"),
        (["x" * 101], [], [], "texts[0]"),
        (["x"] * 4, [], [], "texts"),
        (["10.1.2.3 " * 3], [], [], "texts"),
        (["x"], ["emails"], [], "kinds"),
        (["x"], [], [("me", "x")], "placeholders[0].token"),
        (["x"], [], [("[A_1]", "x"), ("[A_1]", "y")], "placeholders[1].token"),
        (["x"], [], [("[A_1]", "")], "placeholders[0].original"),
        (["x"], [], [("[A_1]", "y" * 100)], "texts[0]"),
        (["x"], [], [("[A_1]", "y"), ("[A_2]", "y"), ("[A_3]", "y")], "placeholders"),
    ],
)
async def test_a_wrong_request_is_refused_naming_the_field(
    texts: list[str], kinds: list[str], placeholders: list[tuple[str, str]], field: str
) -> None:
    given_before = [v1.Placeholder(token=token, original=original) for token, original in placeholders]
    async with validator(InspectionSettings(max_texts=3, max_bytes=100, max_spans=2)) as served:
        with pytest.raises(errors.RequestInvalid) as caught:
            await served.redact(texts, kinds, given_before)
    assert [violation.field for violation in caught.value.fields] == [field]


async def test_what_comes_back_is_no_longer_than_what_may_be_sent() -> None:
    async with validator(InspectionSettings(max_bytes=10_000)) as served:
        with pytest.raises(errors.RequestInvalid, match="more than 10000 characters") as caught:
            await served.restore(["x", "[A_1]" * 100], [v1.Placeholder(token="[A_1]", original="canary" * 20)])
    assert [violation.field for violation in caught.value.fields] == ["texts"]


async def test_the_trace_tells_kinds_and_numbers_and_no_text(capfd: pytest.CaptureFixture[str]) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("validator", exporter=exporter)
    async with validator(InspectionSettings(max_spans=2), tracing) as served:
        await served.redact(TEXTS[:1], placeholders=MADE)
        await served.restore(TEXTS[:1], MADE)
        with pytest.raises(errors.RequestInvalid) as caught:
            await served.redact(TEXTS * 2)
        await asyncio.to_thread(tracing.flush)
    ours = [span for span in exporter.get_finished_spans() if span.name in (names.REDACT, names.RESTORE)]
    assert [(span.name, dict(span.attributes or {})) for span in ours] == [
        (names.REDACT, {names.SENSITIVE_SPANS: 1, names.SENSITIVE_KINDS: ("email",), names.PLACEHOLDERS: 1}),
        (names.RESTORE, {names.PLACEHOLDERS: 1}),
        (
            names.REDACT,
            {
                names.SENSITIVE_SPANS: 6,
                names.SENSITIVE_KINDS: ("card", "email"),
                names.PLACEHOLDERS: 3,
                names.ERROR_TYPE: "REQUEST_INVALID",
            },
        ),
    ]
    told = "".join(span.to_json() for span in exporter.get_finished_spans()) + str(caught.value)
    assert "canary" not in told + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("texts", "known", "told"),
    [
        (["password: hunter22", "is hunter22 right?"], [], ["password: [SECRET_1]", "is [SECRET_1] right?"]),
        (["hunter22, hunter22x, xhunter22"], [("hunter22", "secret")], ["[SECRET_1], hunter22x, xhunter22"]),
        (["call 467 3395", "467 3395!"], [], ["call [PHONE_1]", "[PHONE_1]!"]),
        (["a@b.example hunter22"], [("hunter22", "secret")], ["[EMAIL_1] [SECRET_1]"]),
        (["2 apples"], [("2", "secret")], ["2 apples"]),
        (["the [card_7] word"], [("[card_7]", "placeholder")], ["the [PLACEHOLDER_1] word"]),
    ],
)
def test_what_was_found_once_is_taken_out_wherever_it_is_said_again(
    texts: list[str], known: list[tuple[str, str]], told: list[str]
) -> None:
    before = [Placeholder(f"[{kind.upper()}_1]", original, kind) for original, kind in known]
    assert redact(texts, frozenset(), before).texts == told


@pytest.mark.parametrize("piece", ["aaaaaa ", "- ", "hunter22 ", "password: hunter22 "])
def test_a_hostile_text_that_says_everything_again_ends(piece: str) -> None:
    known = [Placeholder(f"[SECRET_{number}]", "a" * number, "secret") for number in range(6, 65)]
    text = piece * (20_000 // len(piece))
    told = redact([text], frozenset(), known)
    assert restore(told.texts, told.placeholders, len(text)) == [text]


scraps = st.sampled_from(
    [CARD, "a@b.example", "[EMAIL_1]", "[", "]", "\\", " ", "password: hunter22", "[card\\_1]", "é"]
)
texts = st.lists(st.lists(scraps, max_size=8).map("".join), max_size=3)


@given(texts, texts)
def test_restore_gives_back_the_very_texts_also_of_later_calls(first: list[str], second: list[str]) -> None:
    told = redact(first, frozenset(), ())
    later = redact(second, frozenset(), told.placeholders)
    assert restore(told.texts, later.placeholders, 10_000) == first
    assert restore(later.texts, later.placeholders, 10_000) == second
