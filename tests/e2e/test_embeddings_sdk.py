"""Embeddings with OpenAI's SDK, and ranks as Cohere's clients ask for them."""

import httpx
import openai
import pytest

from tests.conformance.targets import Gateway

pytestmark = pytest.mark.vllm

TEXTS = ["Hello there", "The quick brown fox", "weather"]


def test_embeddings(pooling_client: openai.OpenAI) -> None:
    """The SDK asks for base64 by itself, and has the same numbers as those who ask for numbers."""
    packed = pooling_client.embeddings.create(model="tiny", input=TEXTS)
    plain = pooling_client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-4)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0
    assert packed.model == "tiny"


def test_fewer_dimensions(pooling_client: openai.OpenAI) -> None:
    """A request may ask for shorter vectors."""
    answer = pooling_client.embeddings.create(model="tiny", input="Hello", dimensions=16)
    assert len(answer.data[0].embedding) == 16


def test_many_texts(pooling_client: openai.OpenAI) -> None:
    """Many texts in one request have their vectors in their order."""
    answer = pooling_client.embeddings.create(model="tiny", input=TEXTS * 200)
    first, again = answer.data[0].embedding, answer.data[597].embedding
    assert [each.index for each in answer.data] == list(range(600))
    assert again == pytest.approx(first, abs=1e-4)


def test_errors(pooling_client: openai.OpenAI) -> None:
    """Errors of the gateway, and of the engine, raise what they are."""
    with pytest.raises(openai.NotFoundError) as caught:
        pooling_client.embeddings.create(model="nope", input="Hello")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="cannot be empty"):
        pooling_client.embeddings.create(model="tiny", input="")


def test_surface_of_another_kind(pooling_client: openai.OpenAI) -> None:
    """An engine that embeds does not chat: that it has no such path comes through."""
    with pytest.raises(openai.NotFoundError) as caught:
        pooling_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}]
        )
    assert caught.value.request_id


def test_rank_as_cohere_asks_for_it(pooling_gateway: Gateway) -> None:
    """`/v2/rerank` sorts documents by how near they are to the query."""
    body = {"model": "tiny", "query": TEXTS[0], "documents": TEXTS, "top_n": 2}
    answer = httpx.post(f"{pooling_gateway.url}/v2/rerank", json=body, timeout=60)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [results[0]["index"], len(results)] == [0, 2]
    assert results[0]["relevance_score"] > results[1]["relevance_score"]
