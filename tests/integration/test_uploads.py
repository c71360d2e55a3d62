"""Forms go up untouched, and as they arrive: nothing is altered, held, or sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.integration.test_drain import Served, serve
from tests.support.gateway import RunningGateway, SinkName, run_gateway, until
from tests.support.raw import RawAnswer, RawClient, ask, chat_body, dial, post
from tests.support.scripted import DONE, chat_event, usage_event
from tests.support.uploads import (
    BOUNDARY,
    MB,
    TEXT,
    TWO_MODELS,
    Arriving,
    Form,
    Framing,
    Sending,
    Taking,
    UploadWorker,
    model_first,
    model_last,
    models_of,
    taking,
    transcribes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Way = Literal["close", "half_close", "reset"]

ONCE_ASKED: dict[str, Any] = {"discovery_interval": "1h"}
LARGE: dict[str, Any] = {"limits__max_body_bytes": "200MB"}
GROWTH_BYTES = 8 * 2**20
"""By how much the gateway may grow, whatever goes through it. Measured: 0 to 2 MB."""


@pytest.fixture(params=["close", "half_close", "reset"])
def way(request: pytest.FixtureRequest) -> Way:
    """How the client leaves."""
    name: Way = request.param
    return name


@pytest.fixture(params=["length", "chunked"])
def framing(request: pytest.FixtureRequest) -> Framing:
    """How the client frames its body."""
    name: Framing = request.param
    return name


@pytest.fixture
def spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, of this process and of those it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def spilled(directory: Path, pid: int | Literal["self"] = "self") -> list[int]:
    """Sizes of the temporary files that a process has open."""
    sizes = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            if descriptor.readlink().is_relative_to(directory):
                sizes.append(descriptor.stat().st_size)
    return sizes


@contextlib.asynccontextmanager
async def workers_of(
    *scripts: Taking, sink: SinkName, models: bytes = TWO_MODELS, **changes: Any
) -> AsyncIterator[tuple[RunningGateway, list[UploadWorker]]]:
    """A gateway over as many workers as there are scripts; whichever worker is asked first runs
    the first of them."""
    left = list(scripts)

    async def script(arriving: Arriving) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(arriving)

    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(taking(script, models=models)) for _ in scripts]
        urls = [worker.url for worker in workers]
        yield await stack.enter_async_context(run_gateway(*urls, sink=sink, **changes)), workers


def check_is_error(answer: RawAnswer, status: int, code: str, param: str | None = None) -> None:
    """An error of the gateway's own, in OpenAI's shape."""
    assert (answer.status, answer.error["code"]) == (status, code)
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["param"] == param
    assert answer.whole


def check_arrived(arrived: Arriving, form: Form, framing: Framing = "length") -> None:
    """The worker got the client's bytes, framed as they were."""
    assert (arrived.size, arrived.digest) == (form.size, form.digest)
    length = arrived.request.header("content-length")
    assert length == (str(form.size) if framing == "length" else None)
    coding = arrived.request.header("transfer-encoding")
    assert coding == (None if framing == "length" else "chunked")
    assert arrived.request.header("content-type") == f"multipart/form-data; boundary={BOUNDARY}"


# --- a real process: memory and disk ---


class Process:
    """What the kernel tells of a gateway process."""

    def __init__(self, served: Served, directory: Path) -> None:
        self.pid = served.process.pid
        self._served = served
        self._directory = directory

    def status_bytes(self, name: str) -> int:
        """`VmRSS`, or `VmHWM`: its highest value since `forget_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(name)

    def forget_peak(self) -> None:
        """From here on the peak is measured anew (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only counted

    @property
    def spilled(self) -> list[int]:
        """Sizes of its temporary files."""
        return spilled(self._directory, self.pid)

    async def has_spilled(self, size: int) -> None:
        """Wait until its temporary files hold this much."""
        await until(lambda: sum(self.spilled) >= size)

    @property
    def outcomes(self) -> list[str]:
        """Of the uploads, as its log tells them."""
        lines = [json.loads(line) for line in self._served.lines]
        return [line["outcome"] for line in lines if line.get("endpoint") == "transcriptions"]


@contextlib.asynccontextmanager
async def gateway_process(
    worker: UploadWorker, directory: Path
) -> AsyncIterator[tuple[Served, Process]]:
    """A real gateway, warm: what the first upload brings in is no growth."""
    async with serve(worker.url, "--limits-max-body-bytes", "200MB") as served:
        for form in (model_first(2 * MB), model_last(2 * MB)):
            async with dial(served.port) as client:
                await (await Sending(client, form).begin()).rest()
                assert (await client.answer()).status == 200
        worker.asked.clear()
        yield served, Process(served, directory)


async def test_large_upload_whose_model_comes_last_waits_on_disk(
    framing: Framing, spill: Path
) -> None:
    """100 MB go to disk until the model is known, then to the worker as they were; memory is flat,
    and the file is gone afterwards."""
    form = model_last(100 * MB)
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        gateway_process(worker, spill) as (served, process),
        dial(served.port) as client,
    ):
        before = process.status_bytes("VmRSS")
        process.forget_peak()
        sending = await Sending(client, form, framing).begin()
        for part in (25 * MB, 75 * MB):
            await sending.up_to(part)
            await process.has_spilled(part - 20 * MB)
            assert worker.asked == []
        await sending.rest()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, TEXT)
        check_arrived(worker.asked[0], form, framing)
        await until(lambda: process.spilled == [])
        assert process.status_bytes("VmHWM") - before < GROWTH_BYTES
        assert os.listdir(spill) == []  # noqa: PTH208 - only to see that nothing is there


async def test_large_upload_whose_model_comes_first_is_passed_on_as_it_comes(
    framing: Framing, spill: Path
) -> None:
    """Of 100 MB the worker has the first bytes before the client has sent the last; nothing goes
    to disk, and memory is flat."""
    form = model_first(100 * MB)
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        gateway_process(worker, spill) as (served, process),
        dial(served.port) as client,
    ):
        before = process.status_bytes("VmRSS")
        process.forget_peak()
        sending = await Sending(client, form, framing).begin()
        for part in (1, MB, 50 * MB):
            await sending.up_to(part)
            await worker.has_taken(part)
            assert process.spilled == []
        await sending.rest()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, TEXT)
        check_arrived(worker.asked[0], form, framing)
        assert process.status_bytes("VmHWM") - before < GROWTH_BYTES
        assert process.spilled == []


async def test_worker_that_does_not_read_costs_no_memory(spill: Path) -> None:
    """What the worker does not take stays with the client, until it does."""
    form = model_first(100 * MB)
    takes = asyncio.Event()

    async def slow(arriving: Arriving) -> None:
        if arriving.request.header("x-slow"):
            await arriving.piece()
            await takes.wait()
        await transcribes(arriving)

    async with (
        taking(slow, models=TWO_MODELS) as worker,
        gateway_process(worker, spill) as (served, process),
        dial(served.port) as client,
    ):
        before = process.status_bytes("VmRSS")
        process.forget_peak()
        sending = await Sending(client, form).begin("X-Slow: yes")
        sender = asyncio.create_task(sending.rest())
        seen = -1
        while seen != sending.sent or not worker.asked:
            seen = sending.sent
            await asyncio.sleep(0.2)  # no process tells when it stands still
        assert sending.sent < 50 * MB
        takes.set()
        await sender
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form)
        assert process.status_bytes("VmHWM") - before < GROWTH_BYTES


async def test_many_uploads_leave_nothing_behind(spill: Path) -> None:
    """After thirty of 20 MB, a third of them given up half-way, memory and open files are where
    they were."""
    forms = (model_first(20 * MB), model_last(20 * MB))
    framings: tuple[Framing, Framing] = ("length", "chunked")

    async def upload(port: int, number: int) -> None:
        async with dial(port) as client:
            sending = Sending(client, forms[number % 2], framings[number // 2 % 2])
            await sending.begin()
            if number % 3 == 2:
                await sending.up_to(10 * MB)
                client.reset()
            else:
                await sending.rest()
                assert (await client.answer()).status == 200

    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        gateway_process(worker, spill) as (served, process),
    ):
        for number in range(6):
            await upload(served.port, number)
        await until(lambda: len(process.outcomes) == 8)
        before, descriptors = process.status_bytes("VmRSS"), process.descriptors
        for number in range(30):
            await upload(served.port, number)
        await until(lambda: len(process.outcomes) == 38)
        assert process.outcomes.count("ok") == 2 + 4 + 20
        assert process.outcomes.count("client_closed") == 2 + 10
        assert process.status_bytes("VmRSS") - before < GROWTH_BYTES / 2  # measured: -0.6 to 0.4 MB
        # A connection to the worker may be kept.
        await until(lambda: abs(process.descriptors - descriptors) <= 2)
        assert process.spilled == []


# --- the client leaves, or stalls, or sends too much ---


async def leave(client: RawClient, way: Way) -> None:
    """Leave, and after a half-close see the connection closed."""
    getattr(client, way)()
    if way == "half_close":
        await client.closed()


async def test_client_that_leaves_in_mid_upload_frees_the_worker(
    way: Way, framing: Framing, sink: SinkName
) -> None:
    """The worker that has had part of the form sees its connection closed."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_first(5 * MB), framing).begin()).up_to(MB)
        await worker.has_taken(MB)
        await leave(client, way)
        await until(lambda: worker.left == 1)
        await gateway.told("client_closed")


async def test_client_that_leaves_before_its_model_is_known_leaves_no_file(
    way: Way, sink: SinkName, spill: Path
) -> None:
    """What was kept on disk is gone, and no worker was asked."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_last(20 * MB)).begin()).up_to(5 * MB)
        await until(lambda: sum(spilled(spill)) >= 5 * MB)
        await leave(client, way)
        await gateway.told("client_closed")
        assert spilled(spill) == []
        assert worker.asked == []


async def test_client_that_leaves_after_its_upload_frees_the_worker(
    way: Way, sink: SinkName
) -> None:
    """However much came in the last read, the end is seen while the worker thinks."""

    async def thinks(arriving: Arriving) -> None:
        await arriving.rest()
        await arriving.gone()

    async with (
        taking(thinks) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        form = model_first(2 * MB)
        body = form.head() + b"".join(form.pieces())
        client.writer.write(body)
        await until(lambda: bool(worker.asked) and worker.asked[0].taken)
        await leave(client, way)
        await gateway.told("client_closed")


async def test_client_that_leaves_the_queue_with_its_upload_gives_its_place_up(way: Way) -> None:
    """Who waits for admission and leaves never reaches a worker. (An ASGI server tells of the
    client's end only behind the rest of the body, which nobody reads before its turn.)"""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, limits__max_running=1) as gateway,
        dial(gateway.port) as first,
        dial(gateway.port) as leaver,
    ):
        admission = gateway.gateway.admission
        sending = await Sending(first, model_first()).begin()
        await sending.up_to(1)
        await worker.has_taken(1)
        await (await Sending(leaver, model_first()).begin()).up_to(1)
        await until(lambda: admission.queued == 1)
        await leave(leaver, way)
        try:
            await until(lambda: admission.queued == 0)
        finally:
            await sending.rest()
            assert (await first.answer()).status == 200
            await until(lambda: gateway.gateway_tasks == 0)
        assert len(worker.asked) == 1
        await gateway.told("ok", "client_closed")


@pytest.mark.parametrize("form", [model_first(5 * MB), model_last(5 * MB)], ids=["sent", "kept"])
async def test_client_that_stalls_in_mid_upload_is_408(
    form: Form, framing: Framing, sink: SinkName, spill: Path
) -> None:
    """After `timeouts.client_body` without a byte; a worker that has part of it is freed."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, timeouts__client_body="300ms") as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, framing).begin()).up_to(2 * MB)
        answer = await client.answer()
        check_is_error(answer, 408, "request_timeout")
        assert answer.header("connection") == "close"
        await client.closed()
        await until(lambda: worker.left == len(worker.asked))
        assert len(worker.asked) == bool(form.before)
        assert spilled(spill) == []
        await gateway.told("invalid")


async def test_announced_body_that_is_too_large_is_413_at_once(sink: SinkName) -> None:
    """Not a byte of it is waited for."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, limits__max_body_bytes=MB) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(model_first(MB).head())
        check_is_error(await client.answer(), 413, "request_too_large")
        assert worker.asked == []
        await gateway.told("invalid")


@pytest.mark.parametrize("form", [model_first(5 * MB), model_last(5 * MB)], ids=["sent", "kept"])
async def test_body_that_grows_too_large_is_413(form: Form, sink: SinkName, spill: Path) -> None:
    """A chunked one, once it passes `limits.max_body_bytes`; a worker that has part of it is
    freed."""
    bound = 2 * MB
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, limits__max_body_bytes=bound) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, "chunked").begin()).up_to(bound + 1)
        answer = await client.answer()
        check_is_error(answer, 413, "request_too_large")
        assert answer.header("connection") == "close"
        await until(lambda: worker.left == len(worker.asked))
        assert len(worker.asked) == bool(form.before)
        assert all(each.size <= bound for each in worker.asked)
        assert spilled(spill) == []
        await gateway.told("invalid")


async def test_body_of_just_the_bound_passes(framing: Framing, sink: SinkName) -> None:
    """The bound itself is not too much."""
    form = model_last(MB)
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, limits__max_body_bytes=form.size) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, framing).begin()).rest()
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form, framing)
        await gateway.told("ok")


# --- what is counted as in memory ---


async def test_only_what_is_in_memory_counts_as_bytes_in_flight(
    sink: SinkName, spill: Path
) -> None:
    """A form counts until it goes to disk; then it holds no memory, and takes nobody's share."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(
            worker.url, sink=sink, limits__max_inflight_bytes="1MiB",
            limits__max_upload_memory_bytes="512KiB",
        ) as gateway,
        dial(gateway.port) as client,
    ):  # fmt: skip
        admission = gateway.gateway.admission
        form = model_last(20 * MB)
        sending = await Sending(client, form).begin()
        await sending.up_to(100_000)
        await until(lambda: admission.inflight_bytes >= 100_000)
        assert spilled(spill) == []
        await sending.up_to(5 * MB)
        await until(lambda: sum(spilled(spill)) >= 5 * MB)
        assert admission.inflight_bytes == 0
        await sending.rest()
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form)
        await gateway.told("ok")


async def test_upload_that_is_passed_on_takes_no_share_of_memory(sink: SinkName) -> None:
    """It is not held, so it is not counted."""
    form = model_first(5 * MB)
    async with (
        taking(transcribes) as worker,
        run_gateway(worker.url, sink=sink, limits__max_inflight_bytes="64KiB") as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, form).begin()
        await sending.up_to(MB)
        await worker.has_taken(MB)
        assert gateway.gateway.admission.inflight_bytes == 0
        await sending.rest()
        assert (await client.answer()).status == 200
        await gateway.told("ok")


async def test_form_for_which_there_is_no_memory_is_503(sink: SinkName) -> None:
    """While its model is not known, its share may be refused."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, limits__max_inflight_bytes="64KiB") as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_last(5 * MB)).begin()).up_to(200_000)
        check_is_error(await client.answer(), 503, "gateway_overloaded")
        assert worker.asked == []
        await gateway.told("unavailable")


# --- the worker is slow, answers early, dies ---


async def test_slow_worker_holds_its_client_back(framing: Framing, sink: SinkName) -> None:
    """While the worker does not read, the gateway does not either, and holds next to nothing."""
    form = model_first(60 * MB)
    takes = asyncio.Event()

    async def slow(arriving: Arriving) -> None:
        await arriving.piece()
        await takes.wait()
        await transcribes(arriving)

    async with (
        taking(slow, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, form, framing).begin()
        sender = asyncio.create_task(sending.rest())
        connections: Any = gateway._state.connections
        (connection,) = connections
        # Once it has stopped reading, only the worker can make it read again.
        await until(lambda: connection.flow.read_paused and sending.sent > 2 * MB)
        assert len(connection.cycle.body) < MB
        assert not sender.done()
        takes.set()
        await sender
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form, framing)
        await gateway.told("ok")


@pytest.mark.parametrize("status", [400, 413, 503])
async def test_early_answer_reaches_the_client(
    status: int, framing: Framing, sink: SinkName
) -> None:
    """A worker that has read enough to refuse need not read on, and neither need the client send
    on: what it has sent is answered, and its connection does not hang."""
    words = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'

    async def refuses(arriving: Arriving) -> None:
        await arriving.piece()
        await arriving.whole(status, words)

    async with (
        workers_of(refuses, transcribes, sink=sink) as (gateway, workers),
        dial(gateway.port) as client,
    ):
        form = model_first(5 * MB)
        sending = await Sending(client, form, framing).begin()
        await sending.up_to(2 * MB)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.whole) == (status, words, True)
        # Told once, as what it was, and not sent to another worker.
        await gateway.told("refused")
        assert sum(len(worker.asked) for worker in workers) == 1
        if answer.header("connection") == "close":
            await client.closed()
        else:
            await sending.rest()
            await client.send(post(chat_body(stream=False)))
            assert (await client.answer()).status == 200


async def test_connection_of_an_early_answer_carries_no_other_request(
    framing: Framing, sink: SinkName
) -> None:
    """The worker still waits there for the rest of a form: whatever came next would be taken for
    it."""

    async def refuses_forms(arriving: Arriving) -> None:
        if "transcriptions" in arriving.request.line:
            await arriving.piece()
            await arriving.whole(413, b"{}")
        else:
            await transcribes(arriving)

    async with (
        taking(refuses_forms) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_first(5 * MB), framing).begin()).up_to(MB)
        assert (await client.answer()).status == 413
        body = chat_body(stream=False)
        answer = await ask(gateway.port, post(body))
        assert (answer.status, answer.body) == (200, TEXT)
        assert worker.asked[1].size == len(body)
        assert worker.connections == 2
        await gateway.told("refused", "ok")


@pytest.mark.parametrize("way_", ["reset", "close"])
async def test_worker_that_dies_in_mid_upload_is_502(
    way_: str, framing: Framing, sink: SinkName
) -> None:
    """What was passed on as it came cannot be sent again: no other worker is asked."""

    async def dies(arriving: Arriving) -> None:
        while arriving.size < MB:
            await arriving.piece()
        getattr(arriving, way_)()

    async with (
        workers_of(dies, transcribes, sink=sink, **ONCE_ASKED) as (gateway, workers),
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_first(5 * MB), framing).begin()).up_to(2 * MB)
        check_is_error(await client.answer(), 502, "worker_failed")
        assert sum(len(worker.asked) for worker in workers) == 1
        await gateway.told("worker_failed")


@pytest.mark.parametrize("form", [model_first(3 * MB), model_last(3 * MB)], ids=["sent", "kept"])
async def test_upload_that_meets_a_dead_worker_goes_whole_to_another(
    form: Form, framing: Framing, sink: SinkName
) -> None:
    """Nothing of it had been passed on: of two uploads, one meets the dead worker first, and its
    client notices nothing."""
    async with workers_of(transcribes, transcribes, sink=sink, **ONCE_ASKED) as (gateway, workers):
        workers[0].stop_listening()
        for _ in range(2):
            async with dial(gateway.port) as client:
                await (await Sending(client, form, framing).begin()).rest()
                assert (await client.answer()).status == 200
        for arrived in workers[1].asked:
            check_arrived(arrived, form, framing)
        assert (len(workers[0].asked), len(workers[1].asked)) == (0, 2)
        await gateway.told("ok", "ok", retries=1)


async def busy(arriving: Arriving) -> None:
    """Takes the whole form, then has no room for it."""
    await arriving.rest()
    await arriving.whole(503, b'{"error":{"message":"busy","code":503}}', "retry-after: 7")


async def dead(arriving: Arriving) -> None:
    """Takes the whole form, then dies."""
    await arriving.rest()
    arriving.reset()


@pytest.mark.parametrize("first", [busy, dead])
@pytest.mark.parametrize("size", [100_000, 5 * MB], ids=["memory", "disk"])
async def test_upload_that_was_kept_whole_can_go_to_another_worker(
    first: Taking, size: int, framing: Framing, sink: SinkName, spill: Path
) -> None:
    """Where the model came last, the other worker gets the very same bytes."""
    form = model_last(size)
    async with (
        workers_of(first, transcribes, sink=sink, **ONCE_ASKED) as (gateway, workers),
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, framing).begin()).rest()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, TEXT)
        for worker in workers:
            (arrived,) = worker.asked
            check_arrived(arrived, form, framing)
        await gateway.told("ok", retries=1)
        assert spilled(spill) == []


async def test_busy_worker_that_was_passed_an_upload_has_the_last_word(
    framing: Framing, sink: SinkName
) -> None:
    """Its 503 reaches the client: the form cannot be sent again."""
    form = model_first(3 * MB)
    async with (
        workers_of(busy, transcribes, sink=sink) as (gateway, workers),
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, framing).begin()).rest()
        answer = await client.answer()
        assert (answer.status, answer.header("retry-after")) == (503, "7")
        assert sum(len(worker.asked) for worker in workers) == 1
        await gateway.told("refused")


# --- the worker's clock does not run on the client's time ---


async def test_slow_client_is_not_its_workers_silence(sink: SinkName) -> None:
    """`timeouts.first_byte` runs from the last byte of the upload: a worker that is still being
    sent to has nothing to say."""

    async def script(arriving: Arriving) -> None:
        if "transcriptions" in arriving.request.line:
            await transcribes(arriving)
        else:
            await arriving.rest()
            await arriving.gone()

    form = model_first(MB)
    async with (
        taking(script) as worker,
        run_gateway(worker.url, sink=sink, timeouts__first_byte="300ms") as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, form).begin()
        await sending.up_to(1)
        await worker.has_taken(1)
        # Another request of that worker's begins later, and has waited for too long already.
        assert (await ask(gateway.port, post(chat_body(stream=False)))).status == 504
        await sending.rest()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, TEXT)
        check_arrived(worker.asked[0], form)
        await gateway.told("timeout", "ok")


async def test_worker_that_takes_nothing_is_given_up(sink: SinkName) -> None:
    """After `timeouts.first_byte`, though the upload is not over."""

    async def stuck(arriving: Arriving) -> None:
        await asyncio.Event().wait()

    async with (
        taking(stuck, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, timeouts__first_byte="500ms") as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, model_first(60 * MB)).begin()
        sender = asyncio.create_task(sending.rest())
        answer = await client.answer()
        check_is_error(answer, 504, "worker_timeout")
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await gateway.told("timeout")


async def test_stream_keeps_quiet_while_its_upload_comes_in(sink: SinkName) -> None:
    """`timeouts.head_hold` runs from the last byte of the upload: until then a refusal must still
    become a status."""

    async def script(arriving: Arriving) -> None:
        if "transcriptions" in arriving.request.line:
            await arriving.rest()
            await arriving.whole(400, b'{"error":{"message":"no speech"}}')
        else:
            await arriving.rest()
            await arriving.gone()

    form = Form(before=(("stream", "true"), ("model", "demo")))
    async with (
        taking(script, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, timeouts__head_hold="200ms") as gateway,
        dial(gateway.port) as client,
        dial(gateway.port) as other,
    ):
        sending = await Sending(client, form).begin()
        await sending.up_to(1)
        await worker.has_taken(1)
        # A stream that began later has had its first comment already.
        await other.send(post(chat_body()))
        await other.events(await other.head(), 1)
        await sending.rest()
        assert (await client.answer()).status == 400
        other.close()
        await gateway.told("refused", "client_closed")


# --- what is wrong with a form, and what is not ---


async def test_form_without_a_model_is_400(framing: Framing, sink: SinkName, spill: Path) -> None:
    """Where two are served, the gateway cannot guess."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, Form(file_bytes=3 * MB), framing).begin()).rest()
        check_is_error(await client.answer(), 400, "invalid_value", "model")
        assert worker.asked == []
        assert spilled(spill) == []
        await gateway.told("invalid")


async def test_form_with_an_unknown_model_is_404(framing: Framing, sink: SinkName) -> None:
    """It is told before the file has come, where the model comes first."""
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, model_first(5 * MB, model="none"), framing).begin()
        await sending.up_to(1)
        check_is_error(await client.answer(), 404, "model_not_found", "model")
        assert worker.asked == []
        await gateway.told("invalid")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=x",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 300,
    ],
    ids=["json", "no boundary", "mixed", "empty boundary", "boundary too long"],
)
@pytest.mark.parametrize("models", [models_of("demo"), TWO_MODELS], ids=["one", "two"])
async def test_body_that_is_no_form_is_400(
    content_type: str, models: bytes, sink: SinkName
) -> None:
    """Said with the header at fault, even where the model need not be read."""
    async with (
        taking(transcribes, models=models) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        form = model_first(10)
        await client.send(form.head(content_type=content_type), *form.pieces())
        check_is_error(await client.answer(), 400, "invalid_value", "content-type")
        assert worker.asked == []
        await gateway.told("invalid")


async def test_only_model_is_not_looked_for_in_the_form(framing: Framing, sink: SinkName) -> None:
    """Where one model is served its worker has the first bytes at once, though the form never
    names it."""
    form = Form(file_bytes=5 * MB)
    async with (
        taking(transcribes) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, form, framing).begin()
        await sending.up_to(1)
        await worker.has_taken(1)
        await sending.rest()
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form, framing)
        await gateway.told("ok")


@pytest.mark.parametrize(
    "path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"]
)
async def test_every_form_goes_to_its_own_path(path: str, sink: SinkName) -> None:
    """Bytes, content type and query are the client's own."""
    form = model_last(MB)
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(form.head(path=path + "?a=b"), *form.pieces())
        assert (await client.answer()).body == TEXT
        assert worker.asked[0].request.line == f"POST {path}?a=b HTTP/1.1"
        check_arrived(worker.asked[0], form)
        await gateway.told("ok")


async def test_client_that_expects_100_continue_is_told_to_go_on(sink: SinkName) -> None:
    """As curl does with every file that is not small."""
    form = model_last(MB)
    async with (
        taking(transcribes, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        sending = await Sending(client, form).begin("Expect: 100-continue")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await sending.rest()
        assert (await client.answer()).status == 200
        check_arrived(worker.asked[0], form)
        assert worker.asked[0].request.header("expect") is None
        await gateway.told("ok")


# --- figures ---

EVENTS = (chat_event("one"), chat_event(" two"), chat_event("!"), usage_event(5, 3), DONE)


async def test_streamed_transcription_is_passed_on_and_counted(
    framing: Framing, sink: SinkName
) -> None:
    """Events as they were, and the worker's own usage, which its client asked for by itself."""

    async def streams(arriving: Arriving) -> None:
        await arriving.rest()
        await arriving.stream(*EVENTS)

    form = model_first(2 * MB, ("stream", "true"), ("stream_include_usage", "true"))
    async with (
        taking(streams, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await (await Sending(client, form, framing).begin()).rest()
        answer = await client.answer()
        assert answer.header("content-type") == "text/event-stream"
        assert answer.body == b"".join(EVENTS)
        assert answer.whole
        check_arrived(worker.asked[0], form, framing)
        await gateway.told("ok")
        assert await gateway.tokens() == {"prompt exact": 5.0, "completion exact": 3.0}


@pytest.mark.parametrize("form", [model_first(3 * MB), model_last(3 * MB)], ids=["sent", "kept"])
async def test_clock_starts_at_the_last_byte_of_the_upload(form: Form, sink: SinkName) -> None:
    """What the client took to send it is not the worker's time; nor is it overhead."""
    answered_s = 0.0

    async def streams(arriving: Arriving) -> None:
        nonlocal answered_s
        await arriving.rest()
        taken_s = monotonic()
        await until(lambda: monotonic() > taken_s + 0.1)
        answered_s = monotonic() - taken_s
        await arriving.stream(*EVENTS)

    async with (
        taking(streams, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        began_s = monotonic()
        sending = await Sending(client, form).begin()
        await sending.up_to(form.size - 1_000)
        await until(lambda: monotonic() > began_s + 0.6)  # a slow client
        last_s = monotonic()
        await sending.rest()
        answer = await client.answer()
        received_s = monotonic() - last_s
        assert answer.whole
        await gateway.told("ok")
        assert len(worker.asked) == 1
        metrics = await gateway.metrics()
        series = '{model="demo"}'
        ttft_s = metrics["vllm_gateway_time_to_first_token_seconds_sum" + series]
        duration_s = metrics["vllm_gateway_request_duration_seconds_sum" + series]
        overhead_s = metrics["vllm_gateway_overhead_seconds_sum" + series]
        assert answered_s <= ttft_s <= received_s
        assert answered_s <= duration_s
        assert overhead_s <= received_s


async def test_clock_does_not_start_again_with_a_retry(sink: SinkName) -> None:
    """What the first worker took is time that the client has waited."""
    refused_s = 0.0

    async def refuses(arriving: Arriving) -> None:
        nonlocal refused_s
        await arriving.rest()
        refused_s = monotonic()
        await until(lambda: monotonic() > refused_s + 0.1)
        await arriving.whole(503, b"{}")

    answered_s = 0.0

    async def streams(arriving: Arriving) -> None:
        nonlocal answered_s
        await arriving.rest()
        answered_s = monotonic()
        await arriving.stream(*EVENTS)

    async with (
        workers_of(refuses, streams, sink=sink) as (gateway, _),
        dial(gateway.port) as client,
    ):
        await (await Sending(client, model_last(MB)).begin()).rest()
        assert (await client.answer()).whole
        await gateway.told("ok", retries=1)
        metrics = await gateway.metrics()
        ttft_s = metrics['vllm_gateway_time_to_first_token_seconds_sum{model="demo"}']
        assert ttft_s >= answered_s - refused_s
