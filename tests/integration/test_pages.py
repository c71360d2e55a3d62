"""What the gateway answers by itself: models, health, readiness, and the helpful 404."""

from __future__ import annotations

import json

import pytest

from tests.support.gateway import client, run_gateway, until
from tests.support.scripted import good, scripted


def models(*names: str, parent: str | None = None) -> bytes:
    """A worker's list, with the fields that vLLM changes from answer to answer."""
    entries = [
        {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "parent": parent}
        for name in names
    ]
    return json.dumps({"object": "list", "data": entries}).encode()


async def test_models_are_the_union_over_workers() -> None:
    """Each entry as a worker wrote it, each model once."""
    async with (
        scripted(good, models=models("a", "b")) as one,
        scripted(good, models=models("b", "c")) as two,
        run_gateway(one.url, two.url) as gateway,
        client(gateway) as http,
    ):
        listed = (await http.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [entry["id"] for entry in listed["data"]] == ["a", "b", "c"]
        assert (await http.get("/v1/models/b")).json()["owned_by"] == "vllm"
        missing = await http.get("/v1/models/d")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_models_are_learnt_again_when_they_change() -> None:
    """A LoRA adapter that is loaded appears with its parent, one that goes disappears."""
    async with (
        scripted(good, models=models("base")) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        assert list(gateway.gateway.registry.models) == ["base"]
        adapter = json.loads(models("adapter", parent="base"))["data"]
        base = json.loads(models("base"))["data"]
        worker.models = json.dumps({"object": "list", "data": base + adapter}).encode()
        await until(lambda: list(gateway.gateway.registry.models) == ["adapter", "base"])
        listed = (await http.get("/v1/models")).json()["data"]
        assert {entry["id"]: entry["parent"] for entry in listed} == {
            "base": None,
            "adapter": "base",
        }
        worker.models = models("base")
        await until(lambda: list(gateway.gateway.registry.models) == ["base"])


async def test_model_names_may_hold_slashes() -> None:
    """As Hugging Face's names do."""
    async with (
        scripted(good, models=models("org/model")) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        assert (await http.get("/v1/models/org/model")).json()["id"] == "org/model"


async def test_ready_says_whether_a_worker_can_serve() -> None:
    """And health only that the process lives."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        assert (await http.get("/ready")).status_code == 200
        gateway.gateway.pipeline.draining = True
        draining = await http.get("/ready")
        assert (draining.status_code, draining.headers["connection"]) == (503, "close")
        assert (await http.get("/health")).status_code == 200
    async with run_gateway("http://127.0.0.1:1", wait=False) as gateway, client(gateway) as http:
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/files", "/sleep", "/metrics", "/docs", "/openapi.json"])
async def test_other_paths_are_404_in_openais_shape(path: str) -> None:
    """The answer says what is served, and the request has an id and its place in the metrics."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        answer = await http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
        assert "POST /v1/chat/completions" in answer.json()["error"]["message"]
        await gateway.told("invalid")
        [line] = gateway.request_lines
        assert line["id"] == answer.headers["x-request-id"]
        assert line["error"] == "not_found"


async def test_wrong_method_is_405() -> None:
    """With the methods that would do (RFC 9110, 15.5.6)."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        for method, path, allowed in (
            ("GET", "/v1/chat/completions", "POST"),
            ("POST", "/v1/models", "GET"),
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
            assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_models_need_a_key_where_keys_are_set() -> None:
    """Health and readiness do not: probes carry none."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, api_keys="sk-client") as gateway,
        client(gateway) as http,
    ):
        assert (await http.get("/v1/models")).status_code == 401
        key = {"authorization": "Bearer sk-client"}
        assert (await http.get("/v1/models", headers=key)).status_code == 200
        assert (await http.get("/ready")).status_code == 200
