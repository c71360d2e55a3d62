"""The connection: keep-alive, pipelining, Expect, HTTP/1.0, bad requests, TLS, recording."""

import asyncio
import ssl
from pathlib import Path

import trustme

from gateway.sim import Sim, SimOptions

from .client import CHAT, COMPLETIONS, TIMEOUT_S, ask, chat, completion, connect


async def test_many_requests_on_one_connection(sim: Sim) -> None:
    async with connect(sim) as client:
        for _ in range(3):
            client.send(CHAT, chat(stream=True, max_tokens=2))
            assert (await client.answer()).data[-1] == "[DONE]"
            client.send("/version")
            assert (await client.answer()).status == 200
    assert sim.connections_total == 1


async def test_pipelined_requests_are_answered_in_order(sim: Sim) -> None:
    async with connect(sim) as client:
        for number in range(5):
            client.send(COMPLETIONS, completion(request_id=f"r{number}", max_tokens=1))
        client.send("/version", headers={"connection": "close"})
        raw = (await client.reader.read(-1)).decode()
    positions = [raw.index(f'"cmpl-r{number}"') for number in range(5)]
    assert positions == sorted(positions)
    assert raw.endswith('{"version":"0.32.0"}')
    assert [r.target for r in sim.requests] == [COMPLETIONS] * 5 + ["/version"]


async def test_idle_connections_are_closed() -> None:
    async with Sim(SimOptions(keep_alive_s=0.02)) as sim, connect(sim) as client:
        client.send("/version")
        answer = await client.answer(until_end=True)
        assert answer.ended == "complete"
        await sim.wait_for(lambda: sim.connections == 0)


async def test_connection_close_is_told_and_done(sim: Sim) -> None:
    async with connect(sim) as client:
        client.send(CHAT, chat(stream=True, max_tokens=1), headers={"connection": "close"})
        answer = await client.answer(until_end=True)
    assert answer.headers["connection"] == "close"
    assert answer.raw.index(b"connection: close\r\ntransfer-encoding: chunked") > 0


async def test_http_1_0_clients_get_an_end(sim: Sim) -> None:
    async with connect(sim) as client:
        client.writer.write(b"GET /version HTTP/1.0\r\n\r\n")
        raw = await client.reader.read(-1)
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in raw


async def test_expect_gets_100_first(sim: Sim) -> None:
    async with connect(sim) as client:
        body = b'{"prompt":"x","max_tokens":1}'
        client.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        async with asyncio.timeout(TIMEOUT_S):
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(body)
        assert (await client.answer()).status == 200


async def test_chunked_request_bodies(sim: Sim) -> None:
    async with connect(sim) as client:
        client.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b'transfer-encoding: chunked\r\n\r\n8\r\n{"prompt\r\n6\r\n":"x"}\r\n0\r\n\r\n'
        )
        assert (await client.answer()).status == 200
    assert sim.requests[-1].body == b'{"prompt":"x"}'


async def test_what_is_no_http_gets_uvicorns_400(sim: Sim) -> None:
    async with connect(sim) as client:
        client.writer.write(b"BLAH\r\n\r\n")
        raw = await client.reader.read(-1)
    assert raw.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert raw.endswith(
        b"content-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\n"
        b"connection: close\r\n\r\nInvalid HTTP request received."
    )


async def test_requests_are_recorded_as_they_came(sim: Sim) -> None:
    async with connect(sim) as client:
        client.writer.write(
            b"POST /v1/completions?a=b HTTP/1.1\r\nHoSt: x\r\nX-ODD:  spaced \r\n"
            b'Content-Type: application/json\r\ncontent-length: 14\r\n\r\n{"prompt":"x"}'
        )
        assert (await client.answer()).status == 200
    request = sim.requests[-1]
    assert request.head == (
        b"POST /v1/completions?a=b HTTP/1.1\r\nHoSt: x\r\nX-ODD:  spaced \r\n"
        b"Content-Type: application/json\r\ncontent-length: 14\r\n\r\n"
    )
    assert (request.method, request.path, request.body) == (
        "POST",
        "/v1/completions",
        b'{"prompt":"x"}',
    )
    assert request.header(b"x-odd") == "spaced"


async def test_head_has_no_body(sim: Sim) -> None:
    async with connect(sim) as client:
        client.send("/v1/models", method="HEAD", headers={"connection": "close"})
        raw = await client.reader.read(-1)
    assert raw.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert raw.endswith(b"content-length: 31\r\ncontent-type: application/json\r\n"
                        b"vary: Origin\r\nconnection: close\r\n\r\n")  # fmt: skip


async def test_request_id_header_only_when_enabled() -> None:
    async with Sim(SimOptions(request_id_headers=True)) as sim:
        answer = await ask(sim, CHAT, chat(max_tokens=1), headers={"x-request-id": "abc"})
        assert answer.headers["x-request-id"] == "abc"
        assert len((await ask(sim, "/health")).headers["x-request-id"]) == 32


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with Sim(SimOptions(tls_cert=cert, tls_key=key)) as sim:
        assert sim.url.startswith("https://")
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, ssl=context)
        writer.write(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        raw = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    assert raw.endswith(b'{"version":"0.32.0"}')
