from __future__ import annotations

import pytest

from tests.support.gateway import client, run_gateway
from tests.support.scripted import DONE, Exchange, answer_of, scripted

BODY = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("sink", ["transport", "asgi"])
async def test_a_stream_comes_through(sink):
    events = answer_of("one", " two", " three")

    async def script(x: Exchange) -> None:
        await x.stream(*events)

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        client(gateway) as http,
    ):
        answer = await http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == 200
        assert answer.content == b"".join(events[:-2]) + DONE
        for k, v in (await gateway.metrics()).items():
            if v and k.startswith("vllm_g"):
                pass
