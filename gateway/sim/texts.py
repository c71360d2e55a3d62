"""``/v1/chat/completions``, ``/v1/completions``, ``/tokenize`` and ``/detokenize``."""

from gateway.sim.chat import ChatWriter
from gateway.sim.completion import CompletionWriter
from gateway.sim.exchange import Exchange, Routes
from gateway.sim.generation import Generation
from gateway.sim.machine import Machine, derived_id
from gateway.sim.requests import GenerateRequest
from gateway.sim.rules import DETOKENIZE_FIELDS, TOKENIZE_FIELDS
from gateway.sim.schema import check_fields, field_error, invalid
from gateway.sim.wire import Names


class Texts:
    """OpenAI's older surfaces, and the tokenizer's own."""

    def __init__(self, machine: Machine, fingerprint: str) -> None:
        self._machine = machine
        self._fingerprint = fingerprint

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }

    def _chat(self, exchange: Exchange) -> None:
        machine = self._machine
        wanted = machine.reader.chat(exchange.body())
        names = self._names(exchange, wanted, "chatcmpl-")

        def call_id(index: int, number: int) -> str:
            return derived_id("chatcmpl-tool-", names.id, index, number)

        writer = ChatWriter(wanted, names, machine.tokenizer, call_id)
        Generation(machine, wanted, writer, exchange.response, keep_alive=True).start()

    def _completions(self, exchange: Exchange) -> None:
        machine = self._machine
        wanted = machine.reader.completion(exchange.body())
        names = self._names(exchange, wanted, "cmpl-")
        writer = CompletionWriter(wanted, names, machine.tokenizer)
        Generation(machine, wanted, writer, exchange.response, keep_alive=True).start()

    def _names(self, exchange: Exchange, wanted: GenerateRequest, prefix: str) -> Names:
        machine = self._machine
        name = machine.name(exchange.request, wanted.body_id)
        model = machine.models.answered(wanted.model)
        return Names(prefix + name, int(machine.now()), model, self._fingerprint)

    def _tokenize(self, exchange: Exchange) -> None:
        machine = self._machine
        body = exchange.body()
        if body.get("prompt") is None and body.get("messages") is None:
            missing = [
                field_error("missing", f"body.{name}", "Field required", body)
                for name in ("prompt", "messages")
            ]
            raise invalid([*missing])
        values = check_fields(body, TOKENIZE_FIELDS)
        machine.models.check(values.get("model"))
        if "prompt" in values:
            ids = machine.tokenizer.encode(values["prompt"])
        else:
            opened = values.get("add_generation_prompt", True)
            ids = machine.reader.chat_prompt(values["messages"], opened).tokens
        strings = [machine.tokenizer.shown(i) for i in ids]
        answer = {
            "count": len(ids),
            "max_model_len": machine.options.max_model_len,
            "tokens": ids,
            "token_strs": strings if values.get("return_token_strs") else None,
        }
        exchange.send(200, answer)

    def _detokenize(self, exchange: Exchange) -> None:
        machine = self._machine
        values = check_fields(exchange.body(), DETOKENIZE_FIELDS, ("tokens",))
        machine.models.check(values.get("model"))
        exchange.send(200, {"prompt": machine.tokenizer.decode(values["tokens"])})
