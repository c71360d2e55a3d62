"""What is not in the surface table does not exist: vLLM's routes for its operators, and every way
to write a path so that two programs read it differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.api.surfaces import SURFACES
from gateway.routing.response_ids import make_id
from tests.support.gateway import SinkName, run_gateway
from tests.support.raw import RawAnswer, chat_body, dial
from tests.support.scripted import good, scripted
from tests.support.surfaces import CASES

if TYPE_CHECKING:
    from collections.abc import Iterable

# vLLM 0.32, entrypoints: all that an engine may serve beside the table's rows (most of it only in
# its development mode).
OPERATORS = [
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/collective_rpc",
    "/pause",
    "/resume",
    "/is_paused",
    "/abort_requests",
    "/start_profile",
    "/stop_profile",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/invocations",
    "/ping",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/get_world_size",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/inference/v1/generate",
    "/tokenizer_info",
    "/metrics",
    "/version",
    "/server_info",
    "/load",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/v1/realtime",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/classify",
    "/v1/responses/input_tokens/x",
    "/generate",
    "/generative_scoring",
    "/v1/chat/completions/batch",
    "/debug",
    "/v1/files",
    "/v1/batches",
    "/v1/fine_tuning/jobs",
    "/admin",
]

QUERY = "/sleep?level=2"
OTHER_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


def request(method: str, target: str) -> bytes:
    """A whole chat request at another target."""
    body = chat_body()
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def tricks(path: str) -> Iterable[str]:
    """Other ways to write a path, and ways from it to elsewhere."""
    _, first, *rest = path.split("/")
    tail = "".join(f"/{part}" for part in rest)
    yield f"/{path}"
    yield f"//{path}"
    yield f"/./{first}{tail}"
    yield f"/{first}/{tail}"
    yield f"/{first}/.{tail or '/'}"
    yield f"/x/..{path}"
    yield f"/x/%2e%2e{path}"
    yield f"{path}/"
    yield f"{path}//"
    yield f"{path}/."
    yield f"{path}/.."
    yield f"{path}/../sleep"
    yield f"{path}/../../../sleep"
    yield f"{path}/%2e%2e/sleep"
    yield f"{path}/%2E%2E/%2E%2E/sleep"
    yield f"{path}/..%2fsleep"
    yield f"{path}%2f..%2fsleep"
    yield f"{path}%2F"
    yield f"{path}\\..\\sleep"
    yield f"{path}%5c..%5csleep"
    yield f"{path};x"
    yield f"{path};x=/sleep"
    yield f"{path}%3Fx"
    yield f"{path}%23x"
    yield f"{path}%00"
    yield f"{path}%00/sleep"
    yield f"{path}%0d%0aX:%20y"
    yield f"{path}%20"
    yield f"{path}."
    yield f"{path}~"
    yield f"{path}\x00"
    yield f"{path}\x7f"
    yield f"{path}\t"
    yield f"{path}\xff"
    yield f"{path} /sleep"
    yield path.upper() if path.upper() != path else path.swapcase()
    yield f"/{first.capitalize()}{tail}"
    yield path.replace(path[-1], f"%{ord(path[-1]):02x}")
    yield f"/%{ord(path[1]):02X}{path[2:]}"
    yield path.replace("/", "%2f")
    yield f"/{path[1:].replace('/', '%2F')}/"
    yield f"%2f{path[1:]}"
    yield path[1:]
    yield f"\\{path[1:]}"
    yield f"?{path}"
    yield f"{path}{'a' * 2000}"
    yield f"{path}/{'a/' * 20_000}"
    yield f"http://gateway/{path}"
    yield f"http://gateway{path}/"
    yield f"http://gateway/x/..{path}"
    yield f"//gateway{path}"


def paths() -> list[str]:
    """Every path of the table, with a real id where one stands."""
    made = make_id(7, "http://worker:8000", b"")
    return [surface.path.decode().replace("{id}", made) for surface in SURFACES]


async def statuses(port: int, requests: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Status and shape of each answer, by method and target."""
    found = {}
    for method, target in requests:
        async with dial(port) as client:
            await client.send(request(method, target))
            answer = await client.answer()
        found[method, target[:200]] = f"{answer.status} {shape(answer)}"
    return found


def shape(answer: RawAnswer) -> str:
    """Whose error it is."""
    if answer.header("content-type") != "application/json":
        return "not JSON"
    return "OpenAI" if set(answer.error) == {"message", "type", "param", "code"} else "other"


def check_is_refused(found: dict[tuple[str, str], str], sink: SinkName) -> None:
    """404, or 400 where it is no HTTP, in OpenAI's shape; another server has its own 400."""
    allowed = {"404 OpenAI", "400 OpenAI"}
    if sink == "asgi":
        allowed.add("400 not JSON")
    assert {at: told for at, told in found.items() if told not in allowed} == {}


async def test_operators_routes_do_not_exist(sink: SinkName) -> None:
    """By no method, with or without a query, and with any slash at their end."""
    targets = [
        target for path in OPERATORS for target in (path, f"{path}/", f"{path}?level=2", f"/{path}")
    ]
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        found = await statuses(
            gateway.port, [(method, target) for target in targets for method in ("GET", "POST")]
        )
        assert set(found.values()) == {"404 OpenAI"}
        assert worker.seen == []
        await gateway.quiet()


async def test_operators_routes_do_not_exist_by_any_method(sink: SinkName) -> None:
    """Nor by those that nobody uses; HEAD has no body to look at."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        asked = [(method, path) for path in ("/sleep", QUERY) for method in OTHER_METHODS]
        assert set((await statuses(gateway.port, asked)).values()) == {"404 OpenAI"}
        async with dial(gateway.port) as client:
            await client.send(request("HEAD", "/sleep"))
            assert (await client.head()).status == 404
        assert worker.seen == []


@pytest.mark.parametrize("path", paths())
async def test_no_other_way_to_write_a_path_reaches_a_worker(path: str, sink: SinkName) -> None:
    """A path is compared byte for byte, as it stands in the request line."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        method = "GET" if path.startswith("/v1/responses/") and path[-7:] != "/cancel" else "POST"
        found = await statuses(gateway.port, [(method, target) for target in tricks(path)])
        assert len(found) > 45
        check_is_refused(found, sink)
        assert worker.seen == []
        await gateway.quiet()


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "/",
        "//",
        "/%",
        "/%zz",
        "/..",
        "/../sleep",
        "/%2e%2e/sleep",
        "/v1",
        "/v1/",
        "/v1/../sleep",
        "/v1/%2e%2e/sleep",
        "/v1/models/../../sleep",
        "/v1/responses/",
        "/v1/responses/..",
        "/v1/responses/../../sleep",
        "/v1/responses/%2e%2e%2f%2e%2e%2fsleep",
        "/v1/responses/resp_1/../../../sleep",
        "/v1/responses/resp_1/cancel/../../../../sleep",
        "/v1/responses/resp_1%2fcancel",
        "/v1/responses/resp_1/input_items",
        "/v1/responses/resp.1",
        "/v1/responses/resp 1",
        f"/v1/responses/{'a' * 129}",
        "http://worker:8000/sleep",
        "http://127.0.0.1/collective_rpc",
        "http://gateway",
        "http://gateway/",
        "http://",
        "://x",
        "gateway:443",
    ],
)
async def test_odd_targets_reach_no_worker(target: str, sink: SinkName) -> None:
    """Neither by GET nor by POST."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        # The gateway's own list of models answers for all that is below it, to GET.
        methods = ["GET"] if target.startswith("/v1/models/") else ["GET", "POST"]
        found = await statuses(gateway.port, [(method, target) for method in methods])
        check_is_refused(found, sink)
        assert worker.seen == []


async def test_tunnels_are_not_dug(sink: SinkName) -> None:
    """CONNECT is for proxies."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        host = worker.url.removeprefix("http://")
        check_is_refused(await statuses(gateway.port, [("CONNECT", host)]), sink)
        assert worker.seen == []


@pytest.mark.parametrize("target", ["/v1/chat/completions#x", "/v1/chat/completions?a#/../sleep"])
async def test_a_fragment_is_no_part_of_a_request(target: str) -> None:
    """RFC 9112, 3.2: it is refused, not dropped. (uvicorn's own connection class drops it before
    anyone can look, and the request is the surface's own.)"""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        assert await statuses(gateway.port, [("POST", target)]) == {("POST", target): "400 OpenAI"}
        assert worker.seen == []
        await gateway.told("invalid")


async def test_a_target_longer_than_a_head_may_be_is_refused() -> None:
    """431, as any head that is too large."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        (told,) = (
            await statuses(gateway.port, [("POST", f"/v1/chat/completions/{'a' * 70_000}")])
        ).values()
        assert told == "431 OpenAI"
        assert worker.seen == []


async def test_an_absolute_target_is_its_path(sink: SinkName) -> None:
    """RFC 9112, 3.2.2: a server must take the form in which proxies ask, and its host is not where
    the request goes; the worker is sent the surface's own path."""
    case = CASES[0]
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            await client.send(case.sent_to("http://user@elsewhere:81/v1/chat/completions?a=%2F"))
            assert (await client.answer()).status == 200
        assert [seen.line for seen in worker.seen] == ["POST /v1/chat/completions?a=%2F HTTP/1.1"]
        assert worker.seen[0].header("host") == worker.url.removeprefix("http://")


async def test_a_query_is_passed_on_as_it_is(sink: SinkName) -> None:
    """Whatever stands in it, it cannot change the path."""
    case = CASES[0]
    query = "a=/../sleep&b=%2e%2e%2f&&c=%00%0d%0a;d?e=http://x/sleep"
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            await client.send(case.sent_to(f"/v1/chat/completions?{query}"))
            assert (await client.answer()).status == 200
        assert [seen.line for seen in worker.seen] == [
            f"POST /v1/chat/completions?{query} HTTP/1.1"
        ]
