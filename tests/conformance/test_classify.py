"""Classes of texts."""

from typing import Any

import pytest

from tests.conformance.answers import Matches, OneOf, differences
from tests.conformance.bodies import CLASSIFY, MADE_UP_ID
from tests.conformance.targets import Target
from tests.conformance.test_embeddings import TEXTS, TOO_LONG, USAGE, post
from tests.conformance.test_errors import REFUSED, UNDECODED, assert_refused, error


def classify(**fields: Any) -> dict[str, Any]:
    """A request for the classes of two texts, unless `fields` differ."""
    return {"model": "tiny", "input": TEXTS, **fields}


def test_answer_has_all_fields_in_order(classifying_target: Target) -> None:
    """Each text has the probabilities of the two classes, and the name of the likelier one."""
    answer = post(classifying_target, classify(), CLASSIFY)
    assert answer.headers["content-type"] == "application/json"
    expected = {
        "id": Matches(f"classify-{MADE_UP_ID}"),
        "object": "list",
        "created": int,
        "model": "tiny",
        "data": [
            {"index": at, "label": OneOf(str, None), "probs": [float, float], "num_classes": 2}
            for at in range(2)
        ],
        "usage": USAGE,
    }
    assert differences(expected, answer.json()) == []
    for each in answer.json()["data"]:
        assert sum(each["probs"]) == pytest.approx(1, abs=1e-3)
    used = answer.json()["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] > 0


def test_unknown_model(classifying_target: Target) -> None:
    """A model that nobody serves is a 404."""
    answer = classifying_target.client.post(CLASSIFY, json=classify(model="nope"))
    expected = (
        error("invalid_request_error", "model", "model_not_found")
        if classifying_target.is_gateway
        else error("NotFoundError", None, 404)
    )
    assert_refused(answer, 404, expected)


@pytest.mark.parametrize(
    ("fields", "type_", "param"),
    [({"input": 5}, UNDECODED, "body.input"), ({"input": TOO_LONG}, REFUSED, "input_tokens")],
    ids=["wrong type", "too long"],
)
def test_wrong_request(
    classifying_target: Target, fields: dict[str, Any], type_: str, param: str
) -> None:
    """What does not fit is a 400."""
    answer = classifying_target.client.post(CLASSIFY, json=classify(**fields))
    assert_refused(answer, 400, error(type_, param, 400))
