"""What of an answer goes back to the Responses API when the conversation goes on: its items, in their order.

Reasoning is kept whole, for it is encrypted and good for its place alone. Of messages and calls only the place is kept:
their words are in the caller's own message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spillway import v1

WIRE = "openai-responses"
MESSAGE, CALL, REASONING = "message", "function_call", "reasoning"

Item = dict[str, Any]


def kept(items: Iterable[Mapping[str, Any]], *, stored: bool) -> v1.ProviderState | None:
    """Return what is to be kept of the `items` of an answer; None where its text and calls tell all.

    `stored`: the provider keeps the answer itself, so that reasoning is known by its id alone.
    """
    places: list[Item] = []
    for item in items:
        kind = item["type"]
        if kind == MESSAGE:
            place = {"type": MESSAGE, "size": len(text_of(item)), "phase": item.get("phase")}
            places.append({name: value for name, value in place.items() if value is not None})
        elif kind == CALL:
            places.append({"type": CALL})
        elif kind != REASONING or stored or item.get("encrypted_content") or item.get("content"):
            places.append({name: value for name, value in item.items() if value is not None})
    while places and places[-1]["type"] == REASONING:
        places.pop()  # the answer ended within it: it is refused without what follows
    if all(place["type"] == CALL or place.keys() == {"type", "size"} for place in places):
        return None
    return v1.ProviderState(wire=WIRE, state=json.dumps(places, separators=(",", ":")).encode())


def restored(state: bytes, text: str, calls: Sequence[v1.ToolCall]) -> list[Item]:
    """Return the items of an answer of `text` and `calls`, in their order where `state` tells it of the same answer.

    Raises ValueError for a state that was not made here.
    """
    places = _places(state) if state else []
    made = [called(call) for call in calls]
    items: list[Item] = []
    sizes = sum(place["size"] for place in places if place["type"] == MESSAGE)
    if sizes != len(text) or sum(place["type"] == CALL for place in places) != len(made):
        items = [place for place in places if place["type"] not in (MESSAGE, CALL)]
        places = [{"type": MESSAGE, "size": len(text)}] + [{"type": CALL}] * len(made)
    at = 0
    for place in places:
        if place["type"] == CALL:
            items.append(made.pop(0))
        elif place["type"] != MESSAGE:
            items.append(place)
        elif said := text[at : at + place["size"]]:
            at += len(said)
            phase = {"phase": place["phase"]} if "phase" in place else {}
            items.append({"role": "assistant", "content": said, **phase})
    return items


def called(call: v1.ToolCall) -> Item:
    """Return `call` as an item."""
    return {"type": CALL, "call_id": call.id, "name": call.name, "arguments": call.arguments}


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, those of a refusal among them."""
    return "".join(part.get("text") or part.get("refusal") or "" for part in message.get("content") or ())


def _places(state: bytes) -> list[Item]:
    places = json.loads(state)
    if not isinstance(places, list) or not all(isinstance(place, dict) and "type" in place for place in places):
        raise ValueError("not a list of items")
    if any(place["type"] == MESSAGE and type(place.get("size")) is not int for place in places):
        raise ValueError("a message without its size")
    return places
