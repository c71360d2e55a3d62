"""Queue, prefix cache, aborts, backpressure, sleep: the engine as a client sees it."""

import asyncio
import socket

from gateway.sim import Sim, SimOptions

from .client import CHAT, COMPLETIONS, TIMEOUT_S, ask, chat, completion, connect


async def test_a_client_that_leaves_in_prefill_is_an_abort(slow: Sim) -> None:
    async with connect(slow) as client:
        client.send(CHAT, chat(stream=True))
        await slow.wait_for(lambda: slow.running == 1)
    await slow.wait_for(lambda: slow.aborted == 1)
    assert (slow.running, slow.waiting, slow.finished) == (0, 0, 0)
    assert slow.worker.engine.pool.used == 0


async def test_a_client_that_leaves_the_queue_is_an_abort(slow: Sim) -> None:
    async with connect(slow) as first:
        first.send(CHAT, chat(stream=True))
        await slow.wait_for(lambda: slow.running == 1)
        async with connect(slow) as second:
            second.send(CHAT, chat())
            await slow.wait_for(lambda: slow.waiting == 1)
        await slow.wait_for(lambda: slow.waiting == 0)
        assert (slow.running, slow.aborted) == (1, 1)


async def test_a_client_that_leaves_in_decode_is_an_abort() -> None:
    async with Sim(SimOptions(itl_s=0.001)) as sim:
        async with connect(sim) as client:
            client.send(CHAT, chat(stream=True, ignore_eos=True, max_tokens=30_000))
            await client.read_events(3)
        await sim.wait_for(lambda: sim.aborted == 1)
        assert (sim.started, sim.finished, sim.running) == (1, 0, 0)


async def test_half_close_counts_as_leaving(slow: Sim) -> None:
    async with connect(slow) as client:
        client.send(CHAT, chat(stream=True))
        await slow.wait_for(lambda: slow.running == 1)
        client.writer.write_eof()
        await slow.wait_for(lambda: slow.aborted == 1)


async def test_the_queue_is_first_come_first_served() -> None:
    async with Sim(SimOptions(max_num_seqs=1)) as sim:
        sim.sleep()
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            order: list[str] = []

            async def one(name: str) -> None:
                answer = await ask(sim, CHAT, chat(request_id=name, max_tokens=2))
                order.append(answer.json["id"].removeprefix("chatcmpl-"))

            for number, name in enumerate(("a", "b", "c"), 1):
                group.create_task(one(name))
                await sim.wait_for(lambda number=number: sim.waiting == number)  # type: ignore[misc]
            sim.wake()
        assert order == ["a", "b", "c"]


async def test_a_full_queue_is_vllm_503() -> None:
    async with Sim(SimOptions(ttft_s=3600, max_num_seqs=1, max_waiting=0)) as sim:
        async with connect(sim) as client:
            client.send(CHAT, chat())
            await sim.wait_for(lambda: sim.running == 1)
            refused = await ask(sim, CHAT, chat(stream=True))
        assert refused.status == 503
        assert refused.json["error"] == {
            "message": "The engine is currently busy and cannot accept new requests. "
            "Please try again later or on a different instance.",
            "type": "Service Unavailable",
            "param": None,
            "code": 503,
        }
        assert sim.worker.metrics.rejections == 1


async def test_prefix_cache_counts_full_blocks_and_never_the_whole_prompt(sim: Sim) -> None:
    """From a running vLLM with blocks of 32: 100 tokens give 96, 64 give 32."""
    for length, cached in ((100, 96), (64, 32), (31, 0)):
        prompt = list(range(70_000 + length * 1000, 70_000 + length * 1000 + length))
        seen = []
        for _ in range(2):
            answer = await ask(sim, COMPLETIONS, completion(prompt=prompt, max_tokens=1))
            seen.append(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert seen == [0, cached]


async def test_chat_tells_new_blocks_too(sim: Sim) -> None:
    body = chat(messages=[{"role": "user", "content": "hello " * 100}], max_tokens=1)
    details = [
        (await ask(sim, CHAT, body)).json["usage"]["prompt_tokens_details"] for _ in range(2)
    ]
    assert details[0]["cached_tokens"] == 0
    assert details[1]["cached_tokens"] == details[0]["created_cache_tokens"] > 0
    assert details[1]["created_cache_tokens"] == 0


async def test_the_next_turn_finds_prompt_and_answer(sim: Sim) -> None:
    prompt = list(range(80_000, 80_064))
    first = await ask(
        sim,
        COMPLETIONS,
        completion(prompt=prompt, max_tokens=64, ignore_eos=True, return_token_ids=True),
    )
    more = prompt + first.json["choices"][0]["token_ids"] + [70_000] * 10
    second = await ask(sim, COMPLETIONS, completion(prompt=more, max_tokens=1))
    assert second.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 128


async def test_salts_keep_caches_apart(sim: Sim) -> None:
    prompt = list(range(90_000, 90_100))
    for salt, cached in (("a", 0), ("b", 0), ("a", 96)):
        body = completion(prompt=prompt, max_tokens=1, cache_salt=salt)
        details = (await ask(sim, COMPLETIONS, body)).json["usage"]["prompt_tokens_details"]
        assert details["cached_tokens"] == cached


async def test_cached_tokens_shorten_prefill() -> None:
    """The engine's own measure: prefill of 1,600 new tokens at 10,000/s takes 160 ms."""
    options = SimOptions(prefill_tokens_per_s=10_000)
    async with Sim(options) as sim:
        prompt = list(range(70_000, 71_601))
        sums = []
        for _ in range(2):
            before = sim.worker.metrics.prefill_s.sum
            await ask(sim, COMPLETIONS, completion(prompt=prompt, max_tokens=1))
            sums.append(sim.worker.metrics.prefill_s.sum - before)
        assert sums[0] >= 0.159
        assert sums[1] < sums[0]


async def test_no_room_in_the_cache_makes_requests_wait() -> None:
    options = SimOptions(ttft_s=3600, kv_blocks=4, block_size=16, max_model_len=64)
    async with Sim(options) as sim, connect(sim) as one, connect(sim) as two:
        one.send(COMPLETIONS, completion(prompt=[70_000] * 33, max_tokens=16))
        await sim.wait_for(lambda: sim.running == 1)
        two.send(COMPLETIONS, completion(prompt=[70_001] * 33, max_tokens=16))
        await sim.wait_for(lambda: sim.waiting == 1)
        one.writer.close()
        await sim.wait_for(lambda: sim.running == 1 and sim.waiting == 0 and sim.aborted == 1)


async def test_a_client_that_does_not_read_stops_its_stream_only() -> None:
    options = SimOptions(max_model_len=100_000, kv_blocks=10_000)
    async with Sim(options) as sim:
        loop = asyncio.get_running_loop()
        sock = socket.create_connection(("127.0.0.1", sim.port))
        sock.setblocking(False)
        body = b'{"prompt":"x","stream":true,"ignore_eos":true,"max_tokens":90000}'
        head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
        await loop.sock_sendall(sock, head + b"content-length: %d\r\n\r\n" % len(body) + body)
        engine = sim.worker.engine
        await sim.wait_for(lambda: sim.running == 1)
        made = -1
        async with asyncio.timeout(60):
            # Until a whole other stream has gone by without one more token of this one.
            while made != sim.worker.metrics.generation_tokens:
                await ask(sim, CHAT, chat(stream=True, max_tokens=20))
                made = sim.worker.metrics.generation_tokens + 20
                await ask(sim, CHAT, chat(stream=True, max_tokens=20))
        assert sim.running == 1
        assert made < 90_000
        # It reads again: the stream goes on to its end.
        received = 0
        async with asyncio.timeout(60):
            while sim.running:
                received += len(await loop.sock_recv(sock, 1 << 20))
        assert engine.finished >= 3
        sock.close()


async def test_asleep_it_is_healthy_and_silent(sim: Sim) -> None:
    assert (await ask(sim, "/sleep", b"")).status == 200
    assert (await ask(sim, "/health")).status == 200
    metrics = (await ask(sim, "/metrics")).body
    assert b'sleep_state="awake"} 0.0' in metrics
    async with connect(sim) as client:
        client.send(CHAT, chat(stream=True, max_tokens=2))
        await sim.wait_for(lambda: sim.waiting == 1)
        assert (await ask(sim, "/is_sleeping")).json == {"is_sleeping": True}
        assert (await ask(sim, "/wake_up", b"")).status == 200
        assert (await client.answer()).data[-1] == "[DONE]"


async def test_keep_alive_comments_fill_silence() -> None:
    async with Sim(SimOptions(ttft_s=3600, sse_keep_alive_interval_s=0.02)) as sim:
        async with connect(sim) as client:
            client.send(CHAT, chat(stream=True))
            seen = b""
            async with asyncio.timeout(TIMEOUT_S):
                while seen.count(b"e\r\n: keep-alive\n\n\r\n") < 2:
                    seen += await client.reader.read(4096)
        assert b"data:" not in seen


async def test_it_starts_again_on_the_same_port() -> None:
    sim = Sim(SimOptions(ttft_s=3600))
    await sim.start()
    port = sim.port
    async with connect(sim) as client:
        client.send(CHAT, chat(stream=True))
        await sim.wait_for(lambda: sim.running == 1)
        await sim.stop()
        assert (await client.answer()).ended in {"reset", "eof"}
    await sim.start()
    assert sim.port == port
    assert (await ask(sim, "/health")).status == 200
    await sim.stop()
