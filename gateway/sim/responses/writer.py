"""The answer of ``/v1/responses``, as events and whole."""

from collections.abc import Callable

from gateway.sim.answers import Kind
from gateway.sim.machine import derived_id
from gateway.sim.requests import GenerateRequest
from gateway.sim.responses.items import Event, Item, Part
from gateway.sim.responses.request import ResponsesRequest
from gateway.sim.schema import ApiError, Json
from gateway.sim.sequence import Finish, Sequence, Step
from gateway.sim.text import Tokenizer
from gateway.sim.wire import Logprobs, Names, Usage, encode

_PARTS = {Kind.TEXT: Part.MESSAGE, Kind.CONTROL: Part.MESSAGE, Kind.THOUGHT: Part.REASONING}


class ResponsesWriter:
    """Writes one response. ``finished`` gets the final object, which the store may keep."""

    def __init__(
        self,
        request: ResponsesRequest,
        generate: GenerateRequest,
        names: Names,
        tokenizer: Tokenizer,
        finished: Callable[[Json], None],
    ) -> None:
        self._request = request
        self._generate = generate
        self._names = names
        self._finished = finished
        self._tokenizer = tokenizer
        self._produced: list[int] = []
        self._items: list[Item] = []
        self._call = -1
        """Number of the tool call that is open."""
        self._open = False
        self._number = 0
        self._finish = Finish.STOP
        self._thoughts = 0
        self._logprobs = (
            Logprobs(tokenizer, generate.logprobs or 0, False) if request.logprobs else None
        )

    def preamble(self) -> list[bytes]:
        """``response.created`` and ``response.in_progress``."""
        value = self.value("in_progress", [], None)
        names = ("response.created", "response.in_progress")
        return [self._numbered(Event.of(name, {"response": value})) for name in names]

    def opening(self) -> list[bytes]:
        """Nothing more with the first output."""
        return []

    def token(self, sequence: Sequence, step: Step) -> tuple[bytes, ...]:
        """An item is opened by its first piece, and closed by the next item's."""
        return tuple(map(self._numbered, self._take(sequence, step)))

    def add(self, sequence: Sequence, step: Step) -> None:
        """Take one token for the whole answer."""
        self._take(sequence, step)

    def ending(self, usage: Usage | None) -> list[bytes]:  # noqa: ARG002 - in the terminal event
        """The last item is closed."""
        return [self._numbered(event) for event in self._close()]

    def terminal(self, usage: Usage | None) -> bytes:
        """``response.completed``, whatever the status; vLLM knows no ``response.incomplete``."""
        output = [item.value("completed") for item in self._items]
        value = self._done(output, usage)
        return self._numbered(Event.of("response.completed", {"response": value}))

    def refused(self, error: ApiError) -> None:  # noqa: ARG002
        """vLLM does not tell: the stream just breaks."""
        return

    def whole(self, usage: Usage) -> bytes:
        """The answer that is no stream."""
        # Thoughts have no status here, as in vLLM, and there are no empty items.
        output = [
            item.value(None if item.part is Part.REASONING else "completed")
            for item in self._items
            if item.text or item.part is Part.CALL
        ]
        return encode(self._done(output, usage))

    def reasoning_tokens(self) -> int:
        """Tokens of thoughts."""
        return self._thoughts

    def value(self, status: str, output: list[Json], usage: Usage | None) -> Json:
        """The response object."""
        given, params = self._request.values, self._generate.sampling
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._names.id,
            "created_at": self._names.created,
            "incomplete_details": incomplete,
            "instructions": given.get("instructions"),
            "metadata": given.get("metadata"),
            "model": self._names.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": given.get("parallel_tool_calls", True),
            "temperature": given.get("temperature", 1.0),
            "tool_choice": _choice(self._request.tool_choice),
            "tools": [_tool(tool) for tool in self._request.tools],
            "top_p": given.get("top_p", 1.0),
            "background": given.get("background", False),
            "max_output_tokens": params.max_tokens,
            "max_tool_calls": given.get("max_tool_calls"),
            "previous_response_id": given.get("previous_response_id"),
            "prompt": None,
            "reasoning": _reasoning(given.get("reasoning")),
            "service_tier": given.get("service_tier", "auto"),
            "status": status,
            "text": _text(given.get("text")),
            "top_logprobs": given.get("top_logprobs", 0) if self._request.logprobs else None,
            "truncation": given.get("truncation", "disabled"),
            "usage": None if usage is None else _usage(usage),
            "user": given.get("user"),
            "presence_penalty": given.get("presence_penalty", 0.0),
            "frequency_penalty": given.get("frequency_penalty", 0.0),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _raw_messages(self) -> Json:
        """With ``enable_response_messages``: what the model read and wrote, as it is."""
        prompt = self._generate.prompts[0]
        shown = {
            "input_messages": (prompt.text, prompt.tokens),
            "output_messages": (self._tokenizer.decode(self._produced), self._produced),
        }
        kind = "raw_message_tokens"
        return {
            name: [{"message": text, "tokens": tokens, "type": kind}]
            for name, (text, tokens) in shown.items()
        }

    def _done(self, output: list[Json], usage: Usage | None) -> Json:
        status = "incomplete" if self._finish is Finish.LENGTH else "completed"
        value = self.value(status, output, usage)
        if self._request.values.get("enable_response_messages"):
            value |= self._raw_messages()
        self._finished(value)
        return value

    def _take(self, sequence: Sequence, step: Step) -> list[Event]:
        piece = step.piece
        self._produced = sequence.produced
        if step.finish is not None:
            self._finish = step.finish
        if piece.kind is Kind.THOUGHT:
            self._thoughts += 1
            if self._request.values.get("include_reasoning") is False:
                return []
        if piece.kind in (Kind.CALL, Kind.ARGUMENTS):
            return self._take_call(step)
        if not step.text:
            return []
        part = _PARTS[piece.kind]
        events = []
        if not self._open or self._items[-1].part is not part:
            events = [*self._close(), *self._begin(part)]
        logprobs = []
        if self._logprobs is not None and part is Part.MESSAGE:
            entry = self._logprobs.chat(piece.token_id, len(sequence.produced) - 1)
            top = [_ordered(one) for one in entry["top_logprobs"]]
            logprobs = [{**_ordered(entry), "top_logprobs": top}]
        return [*events, self._items[-1].delta(step.text, logprobs)]

    def _take_call(self, step: Step) -> list[Event]:
        piece = step.piece
        if piece.call > 0 and self._generate.single_call:
            return []
        if piece.kind is Kind.CALL:
            self._call = piece.call
            return [*self._close(), *self._begin(Part.CALL, step.text)]
        return [self._items[-1].delta(step.text, [])] if step.text else []

    def _begin(self, part: Part, name: str = "") -> list[Event]:
        index = len(self._items)
        item_id = derived_id(part.value, self._names.id, index)
        call_id = derived_id("chatcmpl-tool-", self._names.id, self._call)
        item = Item(part, index, item_id, name, call_id)
        self._items.append(item)
        self._open = True
        return item.opened()

    def _close(self) -> list[Event]:
        if not self._open:
            return []
        self._open = False
        return self._items[-1].closed()

    def _numbered(self, event: Event) -> bytes:
        number = self._number
        self._number += 1
        return event.bytes(number)


def _usage(usage: Usage) -> Json:
    per_turn = ("input_tokens_per_turn", "cached_tokens_per_turn")
    per_turn_out = ("output_tokens_per_turn", "tool_output_tokens_per_turn")
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.created_cache_tokens or 0,
            **{name: [] for name in per_turn},
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens or 0,
            "tool_output_tokens": 0,
            **{name: [] for name in per_turn_out},
        },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        return tool
    names = (
        "name", "parameters", "strict", "type", "allowed_callers", "async", "defer_loading",
        "description", "output_schema",
    )  # fmt: skip
    return {name: tool.get(name) for name in names}


def _choice(given: str | Json) -> str | Json:
    """A named tool, its name first."""
    if isinstance(given, dict) and "name" in given:
        return {"name": given["name"], "type": given.get("type")}
    return given


def _reasoning(given: Json | None) -> Json | None:
    if given is None:
        return None
    names = ("context", "effort", "generate_summary", "mode", "summary")
    return {name: given.get(name) for name in names}


def _text(given: Json | None) -> Json | None:
    if given is None:
        return None
    form = given.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        names = ("name", "schema", "type", "description", "strict")
        form = {name: form.get(name) for name in names}
    return {"format": form, "verbosity": given.get("verbosity")}


def _ordered(entry: Json) -> Json:
    return {"token": entry["token"], "bytes": entry["bytes"], "logprob": entry["logprob"]}
