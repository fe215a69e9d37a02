from __future__ import annotations

import math

import pytest

from spillway import v1
from spillway.embedding import check, require_whole
from spillway.errors import RequestInvalid, TargetDown

SPEC = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="a"), v1.EmbeddingInput(text="b")])


def answer(*vectors: list[float]) -> v1.EmbedResponse:
    return v1.EmbedResponse(embeddings=[v1.Embedding(values=one) for one in vectors], usage=v1.Usage())


def test_an_extra_that_is_no_json_is_refused_by_name() -> None:
    spec = v1.EmbeddingSpec(inputs=SPEC.inputs)
    spec.extra.update({"a": math.nan})
    with pytest.raises(RequestInvalid) as caught:
        check(spec)
    assert [violation.field for violation in caught.value.fields] == ["spec.extra"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_vector_with_what_is_no_number_is_no_answer(value: float) -> None:
    require_whole(SPEC, answer([1.0, 2.0], [3.0, 4.0]))
    with pytest.raises(TargetDown, match="not finite"):
        require_whole(SPEC, answer([1.0, 2.0], [value, 4.0]))
    with pytest.raises(TargetDown, match="not finite"):
        require_whole(SPEC, answer([math.inf, -math.inf], [3.0, 4.0]))
