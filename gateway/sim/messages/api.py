"""The routes of Anthropic's Messages API."""

from gateway.sim.exchange import Exchange, Routes
from gateway.sim.generation import Generation
from gateway.sim.machine import Machine
from gateway.sim.messages.request import chat_messages, chat_tools, chat_values, read, read_count
from gateway.sim.messages.writer import MessagesWriter
from gateway.sim.wire import Names


class Messages:
    """``/v1/messages`` is chat in other clothes, in vLLM too."""

    def __init__(self, machine: Machine, fingerprint: str) -> None:
        self._machine = machine
        self._fingerprint = fingerprint

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/messages": {"POST": self._create},
            "/v1/messages/count_tokens": {"POST": self._count},
        }

    def _create(self, exchange: Exchange) -> None:
        machine = self._machine
        values = read(exchange.body())
        tools = chat_tools(values)
        machine.models.check(values["model"])
        machine.admit(1)
        chat = chat_values(values)
        wanted = machine.reader.conversation(tools, chat, "max_completion_tokens")
        name = "chatcmpl-" + machine.name(exchange.request)
        model = machine.models.answered(values["model"])
        names = Names(name, int(machine.now()), model, self._fingerprint)
        Generation(machine, wanted, MessagesWriter(wanted, names), exchange.response).start()

    def _count(self, exchange: Exchange) -> None:
        machine = self._machine
        values = read_count(exchange.body())
        machine.models.check(values["model"])
        chat_tools(values)  # to refuse what vLLM refuses; this template does not print tools
        prompt = machine.reader.chat_prompt(chat_messages(values))
        machine.reader.check_length(prompt, from_text=True)
        count = len(prompt.tokens)
        context = {"original_input_tokens": count}
        exchange.send(200, {"input_tokens": count, "context_management": context})
