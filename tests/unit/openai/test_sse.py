"""Events are the same however their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.openai import sse
from spillway.openai.sse import EventParser, EventTooLong

STREAM = (
    b": a comment\n"
    b'data: {"a": "\xc3\xa9\xe4\xb8\xad"}\n\n'
    b"event: message\r\nid: 7\r\ndata: one\r\ndata: two\r\n\r\n"
    b"data:tight\r\r"
    b"data\n\n"
    b"retry: 5\n\n"
    b"data:  two spaces\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = ['{"a": "é中"}'.encode(), b"one\ntwo", b"tight", b"", b" two spaces", b"[DONE]"]


def parsed(*chunks: bytes) -> list[bytes]:
    parser = EventParser()
    found = [event for chunk in chunks for event in parser.feed(chunk)]
    return found + parser.end()


def test_lines_end_with_lf_crlf_or_cr_and_data_lines_are_joined() -> None:
    assert parsed(STREAM) == EVENTS


def test_bytes_one_by_one_give_the_same_events() -> None:
    assert parsed(*(bytes([byte]) for byte in STREAM)) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert parsed(*(STREAM[start:end] for start, end in pairwise(places))) == EVENTS


def test_a_cr_at_the_end_of_a_read_ends_its_line_at_once() -> None:
    parser = EventParser()
    assert parser.feed(b"data: x\r") == []
    assert parser.feed(b"\r") == [b"x"]
    assert parser.feed(b"\ndata: y\n\n") == [b"y"]


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert parsed(b"\xef", b"\xbb\xbfdata: x\n\n") == [b"x"]


def test_the_end_of_the_stream_completes_an_event_without_its_empty_line() -> None:
    assert parsed(b"data: [DONE]\n") == [b"[DONE]"]
    assert parsed(b"data: [DONE]") == [b"[DONE]"]
    assert parsed(b"") == []


def test_an_event_without_end_is_refused_before_it_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    parser = EventParser()
    with pytest.raises(EventTooLong):
        parser.feed(b"data: " + b"x" * 200)
    many = EventParser()
    with pytest.raises(EventTooLong):
        for _ in range(20):
            many.feed(b"data: 0123456789\n")
