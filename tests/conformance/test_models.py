"""The list of models, and the worker's own small routes."""

from typing import Any

from tests.conformance.answers import Each, Matches, differences
from tests.conformance.targets import Target
from tests.conformance.test_errors import assert_refused, error
from tests.support.engine import MAX_MODEL_LEN

PERMISSION: dict[str, Any] = {
    "id": Matches("modelperm-[0-9a-f]{16}"),
    "object": "model_permission",
    "created": int,
    "allow_create_engine": bool,
    "allow_sampling": bool,
    "allow_logprobs": bool,
    "allow_search_indices": bool,
    "allow_view": bool,
    "allow_fine_tuning": bool,
    "organization": "*",
    "group": None,
    "is_blocking": bool,
}
MODEL: dict[str, Any] = {
    "id": "tiny",
    "object": "model",
    "created": int,
    "owned_by": "vllm",
    "root": str,
    "parent": None,
    "max_model_len": MAX_MODEL_LEN,
    "permission": [PERMISSION],
}
MESSAGES = [{"role": "user", "content": "Hi there"}]


def test_models_as_openai_lists_them(target: Target) -> None:
    """Every target lists its model with the four fields that OpenAI has."""
    answer = target.client.get("/v1/models")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["object"] == "list"
    [model] = answer.json()["data"]
    expected = {"id": "tiny", "object": "model", "created": int, "owned_by": str}
    assert differences(expected, {key: model[key] for key in expected}) == []


def test_models_as_a_worker_lists_them(worker_target: Target) -> None:
    """A worker says more: how long its context is, and what the model is made of."""
    answer = worker_target.client.get("/v1/models").json()
    assert differences({"object": "list", "data": [MODEL]}, answer) == []


def test_tokens_of_a_text_and_back(target: Target) -> None:
    """The tokens of a text make that text again."""
    client = target.client
    body = {"model": "tiny", "prompt": "The quick brown fox"}
    answer = client.post("/tokenize", json=body).json()
    expected = {
        "count": len(answer["tokens"]),
        "max_model_len": MAX_MODEL_LEN,
        "tokens": Each(int),
        "token_strs": None,
    }
    assert differences(expected, answer) == []
    back = client.post("/detokenize", json={"model": "tiny", "tokens": answer["tokens"]})
    assert back.json() == {"prompt": "The quick brown fox"}


def test_tokens_of_a_chat_are_its_prompt_tokens(target: Target) -> None:
    """`/tokenize` of a chat counts what the chat's usage counts."""
    client = target.client
    chat = {"model": "tiny", "messages": MESSAGES}
    count = client.post("/tokenize", json=chat).json()["count"]
    used = client.post("/v1/chat/completions", json={**chat, "max_tokens": 1}).json()["usage"]
    assert count == used["prompt_tokens"]


def test_tokens_of_an_unknown_model(target: Target) -> None:
    """`/tokenize` knows its model, too."""
    answer = target.client.post("/tokenize", json={"model": "nope", "prompt": "Hello"})
    expected = (
        error("invalid_request_error", "model", "model_not_found")
        if target.is_gateway
        else error("NotFoundError", "model", 404)
    )
    assert_refused(answer, 404, expected)


def test_health_and_version(worker_target: Target) -> None:
    """A healthy worker says 200 and nothing else; its version is that of vLLM."""
    health = worker_target.client.get("/health")
    assert (health.status_code, health.content) == (200, b"")
    version = worker_target.client.get("/version").json()
    assert differences({"version": Matches(r"\d+\.\d+\.\d+")}, version) == []
