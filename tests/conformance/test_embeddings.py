"""Embeddings: OpenAI's, Cohere's, and vLLM's own `/pooling`."""

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from tests.conformance.answers import Each, Matches, differences, wait_until
from tests.conformance.bodies import COHERE_EMBED, EMBEDDINGS, MADE_UP_ID, POOLING
from tests.conformance.samples import total
from tests.conformance.targets import Target
from tests.conformance.test_abort import RUNNING, WAITING, send
from tests.conformance.test_errors import (
    REFUSED,
    UNDECODED,
    assert_refused,
    error,
)
from tests.support.engine import MAX_MODEL_LEN

SIZE = 64
USAGE = {
    "prompt_tokens": int,
    "total_tokens": int,
    "completion_tokens": 0,
    "prompt_tokens_details": None,
    "completion_tokens_details": None,
}
TEXTS = ["Hello", "The quick brown fox"]
TOO_LONG = "fox " * (MAX_MODEL_LEN + 1)
MANY = 500


def embed(**fields: Any) -> dict[str, Any]:
    """A request for the embeddings of two texts, unless `fields` differ."""
    return {"model": "tiny", "input": TEXTS, **fields}


def like(*embeddings: Any) -> dict[str, Any]:
    """An answer with these embeddings."""
    return {
        "id": Matches(f"embd-{MADE_UP_ID}"),
        "object": "list",
        "created": int,
        "model": "tiny",
        "data": [
            {"index": index, "object": "embedding", "embedding": embedding}
            for index, embedding in enumerate(embeddings)
        ],
        "usage": USAGE,
    }


def post(target: Target, body: dict[str, Any], path: str = EMBEDDINGS) -> httpx.Response:
    """POST a body that has to be served."""
    answer = target.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


def vectors(target: Target, **fields: Any) -> list[list[float]]:
    """The embeddings as lists of numbers."""
    return [each["embedding"] for each in post(target, embed(**fields)).json()["data"]]


def floats(data: bytes) -> tuple[float, ...]:
    """Numbers of 32 bits, the lowest byte first."""
    return struct.unpack(f"<{len(data) // 4}f", data)


def test_answer_has_all_fields_in_order(pooling_target: Target) -> None:
    """Each text has its vector, in the order of the texts; usage counts the prompt alone."""
    answer = post(pooling_target, embed())
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert differences(like(Each(float), Each(float)), answer.json()) == []
    assert [len(each["embedding"]) for each in answer.json()["data"]] == [SIZE, SIZE]
    used = answer.json()["usage"]
    assert used["total_tokens"] == used["prompt_tokens"]


def test_usage_adds_up(pooling_target: Target) -> None:
    """Two texts have the tokens of the one and of the other, as `/tokenize` counts them."""
    counts = [
        post(pooling_target, {"model": "tiny", "prompt": text}, "/tokenize").json()["count"]
        for text in TEXTS
    ]
    used = post(pooling_target, embed()).json()["usage"]
    assert used["prompt_tokens"] == sum(counts)


def test_vectors_are_of_length_one(pooling_target: Target) -> None:
    """A vector has length one; the same text has the same, and another text another."""
    first, second, again = vectors(pooling_target, input=[*TEXTS, TEXTS[0]])
    for vector in (first, second):
        assert sum(number**2 for number in vector) == pytest.approx(1, abs=1e-3)
    assert again == pytest.approx(first, abs=1e-4)
    assert second != pytest.approx(first, abs=1e-2)


def test_one_text(pooling_target: Target) -> None:
    """A text need not be in a list."""
    answer = post(pooling_target, embed(input="Hello")).json()
    assert differences(like(Each(float)), answer) == []


@pytest.mark.parametrize(
    ("tokens", "count"), [([10, 11, 12], 1), ([[10, 11, 12], [13]], 2)], ids=["one", "two"]
)
def test_tokens_as_input(pooling_target: Target, tokens: list[Any], count: int) -> None:
    """The input may be tokens: of one text, or of several."""
    answer = post(pooling_target, embed(input=tokens)).json()
    assert differences(like(*[Each(float)] * count), answer) == []
    assert answer["usage"]["prompt_tokens"] == 3 + (count - 1)


def test_chat_as_input(pooling_target: Target) -> None:
    """vLLM embeds conversations, too."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
    assert differences(like(Each(float)), post(pooling_target, body).json()) == []


def test_base64(pooling_target: Target) -> None:
    """In base64 a vector is the bytes of its 32-bit numbers."""
    answer = post(pooling_target, embed(encoding_format="base64")).json()
    assert differences(like(str, str), answer) == []
    found = [floats(base64.b64decode(each["embedding"])) for each in answer["data"]]
    for vector, expected in zip(found, vectors(pooling_target), strict=True):
        assert vector == pytest.approx(expected, abs=1e-4)


def test_bytes(pooling_target: Target) -> None:
    """As bytes the vectors are the whole body; all else is in one header."""
    answer = post(pooling_target, embed(encoding_format="bytes"))
    assert answer.headers["content-type"] == "application/octet-stream"
    item = {"index": int, "embed_dtype": "float32", "endianness": "native"}
    place = {"start": int, "end": int, "shape": [SIZE]}
    expected = {
        "id": Matches(f"embd-{MADE_UP_ID}"),
        "created": int,
        "model": "tiny",
        "data": [{**item, **place}] * 2,
        "usage": {"prompt_tokens": int, "total_tokens": int},
    }
    metadata = json.loads(answer.headers["metadata"])
    assert differences(expected, metadata) == []
    for place, vector in zip(metadata["data"], vectors(pooling_target), strict=True):
        found = floats(answer.content[place["start"] : place["end"]])
        assert found == pytest.approx(vector, abs=1e-4)


def test_bytes_alone(pooling_target: Target) -> None:
    """`bytes_only` has no such header."""
    answer = post(pooling_target, embed(encoding_format="bytes_only"))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "metadata" not in answer.headers
    assert len(answer.content) == 2 * 4 * SIZE


def test_long_header(pooling_target: Target) -> None:
    """The header grows with the texts, to tens of kilobytes: it arrives whole."""
    answer = post(pooling_target, embed(input=["Hello"] * MANY, encoding_format="bytes"))
    assert len(answer.headers["metadata"]) > 100 * MANY
    assert len(json.loads(answer.headers["metadata"])["data"]) == MANY
    assert len(answer.content) == MANY * 4 * SIZE


def test_fewer_dimensions(pooling_target: Target) -> None:
    """A model that can give shorter vectors does."""
    answer = post(pooling_target, embed(dimensions=8)).json()
    assert [len(each["embedding"]) for each in answer["data"]] == [8, 8]


def test_callers_request_id(pooling_target: Target) -> None:
    """The id is made of the client's `X-Request-Id`."""
    headers = {"X-Request-Id": "abc"}
    answer = pooling_target.client.post(EMBEDDINGS, json=embed(), headers=headers)
    assert answer.json()["id"] == "embd-abc"


@pytest.mark.parametrize("path", [EMBEDDINGS, POOLING])
def test_unknown_model(pooling_target: Target, path: str) -> None:
    """A model that nobody serves is a 404."""
    answer = pooling_target.client.post(path, json=embed(model="nope"))
    expected = (
        error("invalid_request_error", "model", "model_not_found")
        if pooling_target.is_gateway
        else error("NotFoundError", None, 404)
    )
    assert_refused(answer, 404, expected)


@pytest.mark.parametrize(
    ("fields", "type_", "param"),
    [
        ({"input": []}, REFUSED, None),
        ({"input": ""}, REFUSED, None),
        ({"input": TOO_LONG}, REFUSED, "input_tokens"),
        ({"encoding_format": "hex"}, UNDECODED, "body.encoding_format"),
        ({"input": 5}, UNDECODED, "body.input"),
    ],
    ids=["no texts", "empty text", "too long", "unknown encoding", "wrong type"],
)
def test_wrong_request(
    pooling_target: Target, fields: dict[str, Any], type_: str, param: str | None
) -> None:
    """What does not fit is a 400."""
    answer = pooling_target.client.post(EMBEDDINGS, json=embed(**fields))
    assert_refused(answer, 400, error(type_, param, 400))


def test_leaving(pooling_target: Target) -> None:
    """A client that leaves takes its texts from the engine's queue."""
    url = pooling_target.worker_url
    texts = [f"{at} " + "fox " * 8000 for at in range(100)]
    before = total(url, "vllm:request_success_total")
    with send(pooling_target.url, EMBEDDINGS, embed(input=texts)):
        wait_until(lambda: total(url, RUNNING) > 0, "the engine has begun")
    wait_until(lambda: total(url, RUNNING) + total(url, WAITING) == 0, "the engine is free")
    assert total(url, "vllm:request_success_total") - before < len(texts)


def test_cohere_has_all_fields_in_order(pooling_target: Target) -> None:
    """Cohere's answer has the vectors by type, the texts, and what is billed."""
    body = {"model": "tiny", "texts": TEXTS, "embedding_types": ["float", "base64"]}
    answer = post(pooling_target, body, COHERE_EMBED).json()
    expected = {
        "id": Matches(f"embd-{MADE_UP_ID}"),
        "embeddings": {"float": [Each(float)] * 2, "base64": [str] * 2},
        "texts": TEXTS,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": int, "image_tokens": 0},
        },
        "response_type": "embeddings_by_type",
    }
    assert differences(expected, answer) == []
    used = post(pooling_target, embed()).json()["usage"]
    assert answer["meta"]["billed_units"]["input_tokens"] == used["prompt_tokens"]
    for vector, expected_vector in zip(
        answer["embeddings"]["float"], vectors(pooling_target), strict=True
    ):
        assert vector == pytest.approx(expected_vector, abs=1e-4)


def test_cohere_bits(pooling_target: Target) -> None:
    """A bit per number, eight to a byte; `binary` is `ubinary` less 128."""
    body = {"model": "tiny", "texts": ["Hello"], "embedding_types": ["binary", "ubinary"]}
    embeddings = post(pooling_target, body, COHERE_EMBED).json()["embeddings"]
    [vector] = vectors(pooling_target, input="Hello")
    bits = "".join(str(int(number >= 0)) for number in vector)
    expected = [int(bits[at : at + 8], 2) for at in range(0, SIZE, 8)]
    assert embeddings["ubinary"] == [expected]
    assert embeddings["binary"] == [[byte - 128 for byte in expected]]


@pytest.mark.parametrize(
    ("fields", "type_", "param"),
    [
        ({}, UNDECODED, "body"),
        ({"texts": ["Hello"], "embedding_types": ["int9"]}, UNDECODED, "body.embedding_types.0"),
        ({"texts": [TOO_LONG], "truncate": "NONE"}, REFUSED, "input_tokens"),
    ],
    ids=["no texts", "unknown type", "too long"],
)
def test_wrong_request_of_cohere(
    pooling_target: Target, fields: dict[str, Any], type_: str, param: str
) -> None:
    """What does not fit is a 400, in OpenAI's shape."""
    answer = pooling_target.client.post(COHERE_EMBED, json={"model": "tiny", **fields})
    assert_refused(answer, 400, error(type_, param, 400))


def test_pooling_has_all_fields_in_order(pooling_target: Target) -> None:
    """`/pooling` of an embedding model gives the embeddings under another name."""
    answer = post(pooling_target, embed(), POOLING).json()
    expected = {
        "id": Matches(f"pooling-{MADE_UP_ID}"),
        "object": "list",
        "created": int,
        "model": "tiny",
        "data": [{"index": at, "object": "pooling", "data": Each(float)} for at in range(2)],
        "usage": USAGE,
    }
    assert differences(expected, answer) == []
    for each, vector in zip(answer["data"], vectors(pooling_target), strict=True):
        assert each["data"] == pytest.approx(vector, abs=1e-4)
