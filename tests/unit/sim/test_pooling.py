"""Embeddings, pooling, classification, scores and ranks. Shapes are a running vLLM 0.32.0's."""

import base64
import json
import math
import struct
from typing import Any

import openai
import pytest

from gateway.sim import Sim, SimOptions

from .client import ask, connect

EMBED = "/v1/embeddings"
_NAME = {"x-request-id": "abc"}


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def _vectors(sim: Sim, given: object, **more: Any) -> list[list[float]]:
    answer = await ask(sim, EMBED, {"model": "demo", "input": given, **more})
    assert answer.status == 200
    return [entry["embedding"] for entry in answer.json["data"]]


async def test_the_answer_has_vllms_fields(sim: Sim) -> None:
    answer = await ask(sim, EMBED, {"input": ["Hello", "Hi"]}, headers=_NAME)
    value = answer.json
    assert list(value) == ["id", "object", "created", "model", "data", "usage"]
    assert (value["id"], value["object"], value["model"]) == ("embd-abc", "list", "demo")
    assert [list(entry) for entry in value["data"]] == [["index", "object", "embedding"]] * 2
    assert value["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 3,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    assert sim.finished == 1


async def test_equal_texts_are_equal_and_similar_ones_near(sim: Sim) -> None:
    texts = ["the sea at night", "the sea at night", "the sea by day", "fresh bread and honey"]
    one, same, near, far = await _vectors(sim, texts)
    assert one == same
    assert math.isclose(_cosine(one, one), 1.0, abs_tol=1e-5)
    assert 1 > _cosine(one, near) > _cosine(one, far)
    ids = (await ask(sim, "/tokenize", {"prompt": texts[0]})).json["tokens"]
    assert await _vectors(sim, ids) == [one]
    assert await _vectors(sim, [ids, ids]) == [one, one]


async def test_other_workers_give_the_same_vectors(sim: Sim) -> None:
    async with Sim(SimOptions(seed=5, models=("other",))) as other:
        answer = await ask(other, EMBED, {"input": "the sea"})
    assert [answer.json["data"][0]["embedding"]] == await _vectors(sim, "the sea")


async def test_fewer_dimensions_are_still_of_length_one(sim: Sim) -> None:
    (short,) = await _vectors(sim, "the sea", dimensions=8)
    assert len(short) == 8
    assert math.isclose(_cosine(short, short), 1.0, abs_tol=1e-5)
    wrong = await ask(sim, EMBED, {"input": "x", "dimensions": 65})
    assert wrong.status == 400


async def test_openais_client(client: openai.AsyncOpenAI, sim: Sim) -> None:
    """It asks for base64, and decodes it."""
    answer = await client.embeddings.create(model="demo", input="the sea")
    assert [answer.data[0].embedding] == await _vectors(sim, "the sea")
    assert answer.usage.prompt_tokens == 2


@pytest.mark.parametrize(
    ("dtype", "form"), [("float32", "f"), ("float16", "e"), ("bfloat16", None)]
)
@pytest.mark.parametrize("endianness", ["little", "big"])
async def test_base64_of_all_kinds(sim: Sim, dtype: str, form: str | None, endianness: str) -> None:
    (exact,) = await _vectors(sim, "the sea")
    more = {"encoding_format": "base64", "embed_dtype": dtype, "endianness": endianness}
    answer = await ask(sim, EMBED, {"input": "the sea", **more})
    raw = base64.b64decode(answer.json["data"][0]["embedding"])
    order = "<" if endianness == "little" else ">"
    if form is None:
        halves = struct.unpack(f"{order}64H", raw)
        found = [struct.unpack(">f", struct.pack(">HH", half, 0))[0] for half in halves]
    else:
        found = list(struct.unpack(f"{order}64{form}", raw))
    assert found == pytest.approx(exact, abs=1e-2)


async def test_bytes_come_in_chunks_with_a_header(sim: Sim) -> None:
    exact = await _vectors(sim, ["Hello", "Hi"])
    body = {"input": ["Hello", "Hi"], "encoding_format": "bytes"}
    answer = await ask(sim, EMBED, body, headers=_NAME)
    assert answer.headers["content-type"] == "application/octet-stream"
    told = json.loads(answer.headers["metadata"])
    assert list(told) == ["id", "created", "model", "data", "usage"]
    assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for place, vector, chunk in zip(told["data"], exact, answer.chunks[:2], strict=True):
        piece = answer.body[place["start"] : place["end"]]
        assert piece == chunk == struct.pack("<64f", *vector)
        assert place["shape"] == [64]
    only = await ask(sim, EMBED, {**body, "encoding_format": "bytes_only"})
    assert "metadata" not in only.headers
    assert only.body == answer.body


async def test_chats_are_embedded_too(sim: Sim) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    one = await ask(sim, EMBED, {"messages": messages})
    other = await ask(sim, EMBED, {"input": messages})
    assert one.json["data"] == other.json["data"]


async def test_truncation_keeps_the_side_asked_for(sim: Sim) -> None:
    first, last = await _vectors(sim, ["one two", "three four"])
    text = "one two three four"
    assert await _vectors(sim, text, truncate_prompt_tokens=2) != await _vectors(sim, text)
    tokens = (await ask(sim, "/tokenize", {"prompt": text})).json["tokens"]
    keep = {"truncate_prompt_tokens": len(tokens) // 2}
    assert await _vectors(sim, tokens, **keep, truncation_side="left") != [first]
    assert await _vectors(sim, tokens, **keep, truncation_side="right") != [last]


_BAD: list[tuple[str, dict[str, Any], int, str]] = [
    (EMBED, {"input": []}, 400, "You must pass at least one prompt"),
    (EMBED, {"input": ""}, 400, "The decoder prompt cannot be empty"),
    (EMBED, {"model": "nope", "input": "x"}, 404, "The model `nope` does not exist."),
    (EMBED, {"input": [10**9]}, 400, "Token id 1000000000 is out of vocabulary"),
    (
        EMBED,
        {"input": "zq " * 3000},
        400,
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains at "
            "least 2049 input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt. (parameter=input_tokens, value=2049)"
        ),
    ),
    (
        "/pooling",
        {"input": "x", "task": "token_embed"},
        400,
        (
            "Try switching the model's pooling_task via --pooler-config.task token_embed. "
            "(parameter=task)"
        ),
    ),
    (
        "/pooling",
        {"input": "x", "task": "classify"},
        400,
        "Unsupported task: 'classify' Supported tasks: ['embed', 'token_embed'] (parameter=task)",
    ),
    (
        "/classify",
        {"model": "demo"},
        400,
        (
            "2 validation errors:\n  {'type': 'missing', 'loc': 'body.input', 'msg': "
            "'Field required', "
            "'input': '<dict of 1 items>'}\n  {'type': 'missing', 'loc': 'body.messages', 'msg': "
            "'Field required', 'input': '<dict of 1 items>'}"
        ),
    ),
    (
        "/v2/embed",
        {"texts": ["x"], "input_type": "poem"},
        400,
        (
            "Unsupported input_type 'poem'. Supported values: classification, clustering, "
            "search_document, search_query"
        ),
    ),
    (
        "/v2/embed",
        {"texts": ["x"], "embedding_types": ["int8"]},
        400,
        (
            "1 validation error:\n  {'type': 'literal_error', 'loc': 'body.embedding_types.0', "
            "'msg': "
            "\"Input should be 'float', 'binary', 'ubinary' or 'base64'\", 'input': 'int8', 'ctx': "
            "{'expected': \"'float', 'binary', 'ubinary' or 'base64'\"}}"
        ),
    ),
    (
        "/score",
        {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]},
        400,
        "Input lengths must be either 1:1, 1:N or N:N",
    ),
    (
        "/score",
        {"text_1": "a", "text_2": []},
        400,
        "At least one text_pair element must be given",
    ),
    (
        "/rerank",
        {"query": "a", "documents": ["x"], "top_n": -1},
        400,
        (
            "1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.top_n', 'msg': "
            "'Input "
            "should be greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}"
        ),
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), _BAD)
async def test_refusals(
    sim: Sim, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = await ask(sim, path, body)
    assert (answer.status, answer.json["error"]["message"]) == (status, message)


async def test_missing_sides_are_listed_for_each_way(sim: Sim) -> None:
    answer = await ask(sim, "/score", {"model": "demo", "text_1": "Hello"})
    message = answer.json["error"]["message"]
    names = [line.split("'loc': 'body.")[1].split("'")[0] for line in message.split("\n")[1:]]
    assert names == ["queries", "documents", "queries", "items", "data_1", "data_2", "text_2"]


async def test_pooling_and_classify(sim: Sim) -> None:
    pooled = await ask(sim, "/pooling", {"input": "Hello"}, headers=_NAME)
    assert pooled.json["id"] == "pooling-abc"
    assert [pooled.json["data"][0]["data"]] == await _vectors(sim, "Hello")
    answer = await ask(sim, "/classify", {"input": ["Hello", "you"]}, headers=_NAME)
    assert answer.json["id"] == "classify-abc"
    for entry in answer.json["data"]:
        assert list(entry) == ["index", "label", "probs", "num_classes"]
        assert math.isclose(sum(entry["probs"]), 1, abs_tol=1e-6)
        assert entry["label"] == f"LABEL_{entry['probs'].index(max(entry['probs']))}"


async def test_coheres_embed(sim: Sim) -> None:
    types = ["float", "binary", "ubinary", "base64"]
    body = {"texts": ["Hello"], "embedding_types": types, "input_type": "search_query"}
    value = (await ask(sim, "/v2/embed", body, headers=_NAME)).json
    assert list(value) == ["id", "embeddings", "texts", "meta", "response_type"]
    assert (value["id"], list(value["embeddings"])) == ("embd-abc", types)
    (vector,) = await _vectors(sim, "Hello")
    (bits,), (signed,) = value["embeddings"]["ubinary"], value["embeddings"]["binary"]
    assert [byte - 128 for byte in bits] == signed
    first = sum((number >= 0) << (7 - place) for place, number in enumerate(vector[:8]))
    assert bits[0] == first
    assert base64.b64decode(value["embeddings"]["base64"][0]) == struct.pack("<64f", *vector)
    assert value["meta"] == {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": 2, "image_tokens": 0},
    }
    inputs = [{"content": [{"type": "text", "text": "Hello"}]}]
    again = (await ask(sim, "/v2/embed", {"inputs": inputs})).json
    assert again["embeddings"] == {"float": [vector]}


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_scores(sim: Sim, path: str) -> None:
    body = {"text_1": "the sea", "text_2": ["the sea", "the sea is wide", "bread"]}
    value = (await ask(sim, path, body, headers=_NAME)).json
    assert list(value) == ["id", "object", "created", "model", "data", "usage"]
    scores = [entry["score"] for entry in value["data"]]
    assert scores == sorted(scores, reverse=True)
    assert (value["id"], round(scores[0], 5)) == ("score-abc", 1.0)
    pairs = {"queries": ["the sea", "bread"], "documents": ["bread", "bread"]}
    both = (await ask(sim, path, pairs)).json["data"]
    assert round(both[1]["score"], 5) == 1.0


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_ranks(sim: Sim, path: str) -> None:
    body = {"query": "the sea", "documents": ["bread", "the sea is wide", "the sea"]}
    value = (await ask(sim, path, body, headers=_NAME)).json
    assert list(value) == ["id", "model", "usage", "results"]
    assert [result["index"] for result in value["results"]] == [2, 1, 0]
    assert value["results"][0]["document"] == {"text": "the sea", "multi_modal": None}
    top = (await ask(sim, path, {**body, "top_n": 1})).json
    assert top["results"] == value["results"][:1]
    assert top["usage"] == value["usage"]


async def test_the_engine_reads_prompts_and_makes_no_tokens(sim: Sim) -> None:
    await ask(sim, EMBED, {"input": ["word " * 100, "word " * 100]})
    metrics = sim.worker.metrics
    assert metrics.generation_tokens == 0
    assert metrics.finished["stop"] == 2
    assert metrics.prefix_hits > 0


async def test_the_running_limit_holds_and_leaving_aborts() -> None:
    async with Sim(SimOptions(ttft_s=3600, max_num_seqs=2)) as sim:
        async with connect(sim) as client:
            client.send(EMBED, {"input": ["a", "b", "c"]})
            await sim.wait_for(lambda: (sim.running, sim.waiting) == (2, 1))
        await sim.wait_for(lambda: (sim.running, sim.waiting, sim.aborted) == (0, 0, 1))
