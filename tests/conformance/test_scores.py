"""Scores of two texts, and the ranking of documents by them."""

from typing import Any

import pytest

from tests.conformance.answers import Matches, differences
from tests.conformance.bodies import MADE_UP_ID, RERANK_PATHS, SCORE_PATHS
from tests.conformance.targets import Target
from tests.conformance.test_embeddings import TOO_LONG, USAGE, post
from tests.conformance.test_errors import REFUSED, UNDECODED, assert_refused, error

SCORE, RERANK = SCORE_PATHS[0], RERANK_PATHS[0]
SCORE_ID = Matches(f"score-{MADE_UP_ID}")
DOCUMENTS = ["The quick brown fox", "Hello there", "weather"]
QUERY = "Hello there"


def pair(**fields: Any) -> dict[str, Any]:
    """A request for one score, unless `fields` differ."""
    return {"model": "tiny", "text_1": "Hello", "text_2": "The quick brown fox", **fields}


def ranking(**fields: Any) -> dict[str, Any]:
    """A request to rank three documents, unless `fields` differ."""
    return {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, **fields}


def scores(target: Target, **fields: Any) -> list[float]:
    """The scores that a request gets, in its order."""
    data = post(target, pair(**fields), SCORE).json()["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    return [each["score"] for each in data]


@pytest.mark.parametrize("path", SCORE_PATHS)
def test_score_has_all_fields_in_order(pooling_target: Target, path: str) -> None:
    """One pair has one score; usage counts both texts."""
    answer = post(pooling_target, pair(), path)
    assert answer.headers["content-type"] == "application/json"
    expected = {
        "id": SCORE_ID,
        "object": "list",
        "created": int,
        "model": "tiny",
        "data": [{"index": 0, "object": "score", "score": float}],
        "usage": USAGE,
    }
    assert differences(expected, answer.json()) == []
    used = answer.json()["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] > 0


def test_score_is_symmetric(pooling_target: Target) -> None:
    """Of two embeddings it does not matter which comes first; a text is nearest to itself."""
    [score] = scores(pooling_target)
    [swapped] = scores(pooling_target, text_1="The quick brown fox", text_2="Hello")
    [same] = scores(pooling_target, text_2="Hello")
    assert swapped == pytest.approx(score, abs=1e-4)
    assert same == pytest.approx(1, abs=1e-3)
    assert score < same


def test_one_text_with_many(pooling_target: Target) -> None:
    """One text is scored with each of many, and many with as many, in pairs."""
    [one] = scores(pooling_target)
    assert scores(pooling_target, text_2=["The quick brown fox", "Hello"]) == pytest.approx(
        [one, 1], abs=1e-3
    )
    texts = ["Hello", "The quick brown fox"]
    assert scores(pooling_target, text_1=texts, text_2=texts[::-1]) == pytest.approx(
        [one, one], abs=1e-4
    )


@pytest.mark.parametrize("names", [("queries", "documents"), ("data_1", "data_2")])
def test_other_names(pooling_target: Target, names: tuple[str, str]) -> None:
    """The two sides have several names."""
    texts = pair()
    body = {"model": "tiny", names[0]: texts["text_1"], names[1]: texts["text_2"]}
    answer = post(pooling_target, body, SCORE).json()
    assert [each["score"] for each in answer["data"]] == pytest.approx(
        scores(pooling_target), abs=1e-4
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, None),
        ({"text_2": []}, None),
        ({"text_2": TOO_LONG}, "input_tokens"),
    ],
    ids=["two and three", "none", "too long"],
)
def test_wrong_pairs(pooling_target: Target, fields: dict[str, Any], param: str | None) -> None:
    """Texts that make no pairs are a 400."""
    answer = pooling_target.client.post(SCORE, json=pair(**fields))
    assert_refused(answer, 400, error(REFUSED, param, 400))


@pytest.mark.parametrize("path", RERANK_PATHS)
def test_best_comes_first(pooling_target: Target, path: str) -> None:
    """Documents come with their index and score, the nearest to the query first."""
    answer = post(pooling_target, ranking(), path)
    assert answer.headers["content-type"] == "application/json"
    results = answer.json()["results"]
    result = {"index": int, "document": {"text": str, "multi_modal": None}}
    expected = {
        "id": SCORE_ID,
        "model": "tiny",
        "usage": {"prompt_tokens": int, "total_tokens": int},
        "results": [{**result, "relevance_score": float}] * 3,
    }
    assert differences(expected, answer.json()) == []
    relevance = [each["relevance_score"] for each in results]
    assert relevance == sorted(relevance, reverse=True)
    assert relevance[0] == pytest.approx(1, abs=1e-3)
    assert results[0]["index"] == DOCUMENTS.index(QUERY)
    assert sorted(each["index"] for each in results) == [0, 1, 2]
    assert all(each["document"]["text"] == DOCUMENTS[each["index"]] for each in results)
    assert answer.json()["usage"]["prompt_tokens"] == answer.json()["usage"]["total_tokens"]


def test_ranking_is_by_score(pooling_target: Target) -> None:
    """A document's relevance is its score with the query."""
    results = post(pooling_target, ranking(), RERANK).json()["results"]
    found = scores(pooling_target, text_1=QUERY, text_2=DOCUMENTS)
    relevance = [each["relevance_score"] for each in sorted(results, key=lambda one: one["index"])]
    assert relevance == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (9, 3), (0, 3)])
def test_best_few(pooling_target: Target, top_n: int, count: int) -> None:
    """`top_n` leaves out what comes after; 0, or more than there are, leaves out nothing."""
    whole = post(pooling_target, ranking(), RERANK).json()
    answer = post(pooling_target, ranking(top_n=top_n), RERANK).json()
    order = [each["index"] for each in whole["results"]]
    assert [each["index"] for each in answer["results"]] == order[:count]
    assert answer["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("fields", "type_", "param"),
    [
        ({"top_n": -1}, UNDECODED, "body.top_n"),
        ({"documents": []}, REFUSED, None),
        ({"documents": [TOO_LONG]}, REFUSED, "input_tokens"),
        ({"documents": [{"text": "weather"}]}, UNDECODED, "body.documents"),
    ],
    ids=["negative", "no documents", "too long", "objects"],
)
def test_wrong_ranking(
    pooling_target: Target, fields: dict[str, Any], type_: str, param: str | None
) -> None:
    """What does not fit is a 400."""
    answer = pooling_target.client.post(RERANK, json=ranking(**fields))
    assert_refused(answer, 400, error(type_, param, 400))


@pytest.mark.parametrize("path", [*SCORE_PATHS, *RERANK_PATHS])
def test_unknown_model(pooling_target: Target, path: str) -> None:
    """A model that nobody serves is a 404."""
    body = ranking(model="nope") if path in RERANK_PATHS else pair(model="nope")
    answer = pooling_target.client.post(path, json=body)
    expected = (
        error("invalid_request_error", "model", "model_not_found")
        if pooling_target.is_gateway
        else error("NotFoundError", None, 404)
    )
    assert_refused(answer, 404, expected)
