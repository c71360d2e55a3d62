"""Bodies of ``/v1/responses``: checked, and put into chat's terms.

Rules and words: ``entrypoints/openai/responses/protocol.py`` and ``utils.py`` of vLLM.
"""

from dataclasses import dataclass, field

from gateway.sim import schema
from gateway.sim.sampling import FIELDS as SAMPLING_FIELDS
from gateway.sim.schema import Checked, Json, bad_request, check_fields

_SAMPLING = (
    "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias", "min_p",
    "presence_penalty", "priority", "repetition_penalty", "request_id", "seed", "stop",
    "stop_token_ids", "stream", "temperature", "top_k", "top_p", "user", "cache_salt",
)  # fmt: skip


def _check_input(value: object, loc: str) -> Checked:
    if isinstance(value, str):
        return value, []
    items, errors = schema.LIST(value, loc)
    for number, item in enumerate(items or ()):
        errors = errors + schema.MODEL(item, f"{loc}.{number}")[1]
    return items, [*schema.STRING(value, loc)[1], *errors] if errors else []


FIELDS = {
    "background": schema.BOOLEAN,
    "include": schema.LIST,
    "input": _check_input,
    "instructions": schema.STRING,
    "max_output_tokens": schema.INTEGER,
    "max_tool_calls": schema.INTEGER,
    "metadata": schema.MAPPING,
    "model": schema.STRING,
    "parallel_tool_calls": schema.BOOLEAN,
    "previous_response_id": schema.STRING,
    "reasoning": schema.MODEL,
    "include_reasoning": schema.BOOLEAN,
    "service_tier": schema.one_of("auto", "default", "flex", "scale", "priority"),
    "store": schema.BOOLEAN,
    "text": schema.MODEL,
    "tools": schema.LIST,
    "top_logprobs": schema.INTEGER,
    "truncation": schema.one_of("auto", "disabled"),
    "chat_template_kwargs": schema.MAPPING,
    "enable_response_messages": schema.BOOLEAN,
    **{name: SAMPLING_FIELDS[name] for name in _SAMPLING},
}


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """One request: its fields with their types checked, and what follows from them."""

    values: Json
    tools: list[Json] = field(default_factory=list)
    tool_choice: str | Json = "none"

    @property
    def stream(self) -> bool:
        """Events, or one JSON object."""
        return bool(self.values.get("stream"))

    @property
    def background(self) -> bool:
        """The answer is made whether or not the client stays."""
        return bool(self.values.get("background"))

    @property
    def store(self) -> bool:
        """The client wants it kept, which is the default."""
        return bool(self.values.get("store", True))

    @property
    def logprobs(self) -> bool:
        """Logprobs were asked for."""
        return "message.output_text.logprobs" in self.values.get("include", ())

    def chat_body(self) -> Json:
        """Tools and their choice, as ``/v1/chat/completions`` has them."""
        tools = [
            {"type": "function", "function": tool}
            for tool in self.tools
            if tool.get("type") == "function"
        ]
        choice: object = self.tool_choice
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        body: Json = {"tools": tools, "tool_choice": choice if tools else "none"}
        if self.values.get("parallel_tool_calls") is False:
            body["parallel_tool_calls"] = False
        return body

    def chat_values(self, messages: list[Json]) -> Json:
        """The other fields, as ``/v1/chat/completions`` has them."""
        values = self.values
        kept = (*_SAMPLING, "model", "max_output_tokens", "chat_template_kwargs")
        chat = {name: values[name] for name in kept if name in values}
        chat["messages"] = messages
        effort = values.get("reasoning", {}).get("effort")
        if effort is not None:
            chat["reasoning_effort"] = effort
        form = values.get("text", {}).get("format") or {}
        if form.get("type") == "json_schema":
            schema_wanted = {"name": form.get("name"), "schema": form.get("schema")}
            chat["response_format"] = {"type": "json_schema", "json_schema": schema_wanted}
        elif form.get("type") == "json_object":
            chat["response_format"] = form
        if self.logprobs:
            chat["logprobs"], chat["top_logprobs"] = True, values.get("top_logprobs", 0)
        return chat


def read(body: Json) -> ResponsesRequest:
    """Check fields and the rules between them. Raises ``ApiError``."""
    tools, choice = _check_tools(body)
    if body.get("prompt") is not None:
        raise bad_request("prompt template is not supported", "prompt")
    if body.get("background") and not body.get("store", True):
        raise bad_request("background can only be used when `store` is true", "background")
    return ResponsesRequest(check_fields(body, FIELDS, ("input",)), tools, choice)


def _check_tools(body: Json) -> tuple[list[Json], str | Json]:
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    given = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    named = isinstance(choice, dict) and choice.get("type") in ("function", "custom")
    if not given and choice == "required":
        raise bad_request(
            "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
        )
    if named and not any(tool.get("name") == choice.get("name") for tool in given):
        raise bad_request("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")
    if not given and choice in ("auto", "none"):
        # Into the body too: the errors of pydantic count its fields.
        choice = body["tool_choice"] = "none"
    return given, choice


def messages_of(
    request: ResponsesRequest, previous: list[Json] | None, output: list[Json]
) -> list[Json]:
    """The conversation: instructions, what came before, the new input.

    ``previous`` and ``output`` belong to ``previous_response_id``; its instructions are dropped.
    """
    messages: list[Json] = []
    instructions = request.values.get("instructions")
    if instructions:
        messages.append({"role": "system", "content": instructions})
    messages += [m for m in previous or () if m.get("role") != "system"]
    for item in output:
        if item["type"] == "message":
            texts = [part["text"] for part in item["content"]]
            messages += [{"role": "assistant", "content": text} for text in texts]
    given = request.values["input"]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given:
        _add_item(messages, item)
    return messages


def _add_item(messages: list[Json], item: Json) -> None:
    """One input item; parts of one turn of the assistant become one message."""
    kind = item.get("type", "message")
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if kind in ("function_call", "custom_tool_call"):
        call = {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments", "")},
        }
        if last is None:
            messages.append({"role": "assistant", "tool_calls": [call]})
        else:
            last.setdefault("tool_calls", []).append(call)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        content = item.get("output")
        messages.append({"role": "tool", "content": content, "tool_call_id": item.get("call_id")})
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary") or [{}]
        messages.append({"role": "assistant", "reasoning": parts[0].get("text", "")})
    elif isinstance(item.get("role"), str):
        content = item.get("content")
        if item["role"] == "assistant" and isinstance(content, list) and content:
            content = content[0].get("text")
        messages.append({"role": item["role"], "content": content})
    else:
        raise bad_request(f"Unsupported input item type: {kind}", "input")
