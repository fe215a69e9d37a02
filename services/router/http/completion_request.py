"""The body of a completion, read into a spec of the contract."""

from __future__ import annotations

from spillway import v1

from .failure import wrong
from .parameters import Asked, Parameters, read_shared, read_stream, token_ids


def read_completion(body: object) -> Asked:
    """Return what `body` asks for. Raises RequestInvalid or ParameterUnknown naming the parameter that is wrong."""
    told, spec = Parameters(body), v1.GenerationSpec()
    suffix = told.text("suffix")
    _read_prompt(told.raw("prompt"), spec, fills=bool(suffix))
    if suffix is not None:
        if spec.WhichOneof("input") != "text":
            raise wrong("suffix", "goes with a text prompt only")
        spec.text.suffix = suffix
    read_shared(told, spec)
    top = told.integer("logprobs")
    if top is not None:
        spec.logprobs.top = top
        spec.logprobs.SetInParent()
    told.only("echo", False, why="the prompt is not repeated here")
    told.only("best_of", 1, spec.sampling.n, why="must be n: answers are not chosen among here")
    return read_stream(told, spec)


def _read_prompt(prompt: object, spec: v1.GenerationSpec, *, fills: bool) -> None:
    """Read `prompt` into `spec`; what `fills` the beginning of a text has nothing before it."""
    match prompt:
        case None:
            raise wrong("prompt", "is missing")
        case "" | [""] if fills:
            spec.text.text = ""
        case "" | [] | [""] | [[]]:
            raise wrong("prompt", "is empty: say what is to be generated")
        case str() as text:
            spec.text.text = text
        case [str() as text]:
            spec.text.text = text
        case [[*ids]]:
            spec.tokens.ids.extend(token_ids("prompt", ids))
        case [str() | list(), *_]:
            raise wrong("prompt", "must be one prompt: send a request for each")
        case _:
            spec.tokens.ids.extend(token_ids("prompt", prompt))
