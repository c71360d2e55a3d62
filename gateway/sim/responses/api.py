"""The routes of ``/v1/responses``: create, retrieve, cancel."""

from gateway.sim import schema
from gateway.sim.exchange import Exchange, Routes
from gateway.sim.generation import Generation
from gateway.sim.machine import Machine
from gateway.sim.responses.request import ResponsesRequest, messages_of, read
from gateway.sim.responses.store import Kept, ResponseStore, Tape
from gateway.sim.responses.writer import ResponsesWriter
from gateway.sim.schema import ApiError, Json, invalid
from gateway.sim.wire import Names, encode

_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background "
    "mode. To enable these features, set the environment variable "
    "`VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)


class Responses:
    """OpenAI's Responses API. Without a store ``store`` is ignored, as in vLLM."""

    def __init__(self, machine: Machine, fingerprint: str) -> None:
        self._machine = machine
        self._fingerprint = fingerprint
        self.store = ResponseStore(machine.options.responses_store)

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/responses": {"POST": self._create},
            "/v1/responses/{response_id}": {"GET": self._retrieve},
            "/v1/responses/{response_id}/cancel": {"POST": self._cancel},
        }

    def _create(self, exchange: Exchange) -> None:
        machine, request = self._machine, read(exchange.body())
        values = request.values
        machine.models.check(values.get("model"))
        if request.store and request.background and not self.store.enabled:
            raise ApiError(400, "invalid_request_error", _NO_STORE, "background")
        machine.admit(1)
        messages = self._messages(request)
        chat = request.chat_values(messages)
        generate = machine.reader.conversation(request.chat_body(), chat, "max_output_tokens")
        # The header X-Request-Id is not looked at here.
        name = values.get("request_id") or f"resp_{machine.random_id(exchange.request)}"
        model = machine.models.answered(values.get("model"))
        names = Names(name, int(machine.now()), model, self._fingerprint)
        kept = None
        if request.store and self.store.enabled:
            kept = self.store.begin(name, messages)

        def finished(value: Json) -> None:
            if kept is not None:
                self.store.finish(name, value)

        writer = ResponsesWriter(request, generate, names, machine.tokenizer, finished)
        if kept is not None and request.background:
            tape = kept.tape = Tape()
            queued = kept.value = writer.value("queued", [], None)
            self._in_background(Generation(machine, generate, writer, tape))
            if request.stream:
                tape.follow(exchange.response, 0)
            else:
                exchange.send_bytes(200, encode(queued), b"application/json")
            return
        Generation(machine, generate, writer, exchange.response).start()

    @staticmethod
    def _in_background(generation: Generation) -> None:
        try:
            generation.start()
        except ApiError:
            return  # as in vLLM, it stays "queued" for ever

    def _messages(self, request: ResponsesRequest) -> list[Json]:
        previous = request.values.get("previous_response_id")
        if previous is None:
            return messages_of(request, None, [])
        kept, value = self._kept(previous)
        return messages_of(request, kept.messages, value["output"])

    def _kept(self, name: str) -> tuple[Kept, Json]:
        kept = self.store.get(name)
        if kept is None or kept.value is None:
            text = f"Response with id '{name}' not found."
            raise ApiError(404, "invalid_request_error", text, "response_id")
        return kept, kept.value

    def _retrieve(self, exchange: Exchange) -> None:
        query = exchange.query()
        after, wrong = schema.INTEGER(query.get("starting_after", -1), "query.starting_after")
        stream, wrong_too = schema.BOOLEAN(query.get("stream", False), "query.stream")
        if wrong or wrong_too:
            raise invalid([*wrong, *wrong_too])
        kept, value = self._kept(exchange.path_value)
        if not stream:
            exchange.send(200, value)
        elif kept.tape is not None:
            kept.tape.follow(exchange.response, max(after + 1, 0))
        else:
            # Only what is made in the background has its events kept; vLLM finds out too late.
            exchange.response.open()
            exchange.response.cut()

    def _cancel(self, exchange: Exchange) -> None:
        kept, value = self._kept(exchange.path_value)
        if value["status"] not in ("queued", "in_progress"):
            text = "Cannot cancel a synchronous response."
            raise ApiError(400, "invalid_request_error", text, "response_id")
        value["status"] = "cancelled"
        if kept.tape is not None and kept.tape.gone is not None:
            kept.tape.gone()
        exchange.send(200, value)
