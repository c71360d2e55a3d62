"""Bodies of ``/v1/messages``: checked, and put into chat's terms.

Rules and words: ``entrypoints/anthropic/protocol.py`` and ``serving.py`` of vLLM.
"""

import json
from typing import Any

from gateway.sim import schema
from gateway.sim.schema import ApiError, Checked, Json, check_fields, field_error, value_error

_BILLING = "x-anthropic-billing-header"
_BLOCKS = (
    "text", "image", "tool_use", "tool_result", "tool_reference", "thinking",
    "redacted_thinking", "tool_addition", "tool_removal",
)  # fmt: skip
_ROLE = schema.one_of("user", "assistant", "system")
_BLOCK = schema.one_of(*_BLOCKS)


def _check_model(value: object, loc: str) -> Checked:
    model, errors = schema.STRING(value, loc)
    if not errors and not model:
        errors = [value_error(loc, "Model is required", value)]
    return model, errors


def _check_max_tokens(value: object, loc: str) -> Checked:
    number, errors = schema.INTEGER(value, loc)
    if not errors and number <= 0:
        errors = [value_error(loc, "max_tokens must be positive", value)]
    return number, errors


def _check_content(value: object, loc: str) -> Checked:
    if isinstance(value, str):
        return value, []
    blocks, errors = schema.LIST(value, loc)
    if errors:
        return None, [*schema.STRING(value, loc)[1], *errors]
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            errors = errors + schema.MODEL(block, f"{loc}.{number}")[1]
        elif "type" not in block:
            errors.append(field_error("missing", f"{loc}.{number}.type", "Field required", block))
        else:
            errors = errors + _BLOCK(block["type"], f"{loc}.{number}.type")[1]
    return blocks, errors


def _check_messages(value: object, loc: str) -> Checked:
    messages, errors = schema.LIST(value, loc)
    for number, message in enumerate(messages or ()):
        place = f"{loc}.{number}"
        if not isinstance(message, dict):
            errors = errors + schema.MODEL(message, place)[1]
            continue
        for name, check in (("role", _ROLE), ("content", _check_content)):
            if name in message:
                errors = errors + check(message[name], f"{place}.{name}")[1]
            else:
                missing = field_error("missing", f"{place}.{name}", "Field required", message)
                errors = [*errors, missing]
    return messages, errors


_COUNTED = {
    "model": _check_model,
    "messages": _check_messages,
    "output_config": schema.MODEL,
    "system": _check_content,
    "thinking": schema.MODEL,
    "tool_choice": schema.MODEL,
    "tools": schema.LIST,
    "chat_template_kwargs": schema.MAPPING,
}
_FIELDS = {
    **_COUNTED,
    "max_tokens": _check_max_tokens,
    "metadata": schema.MAPPING,
    "stop_sequences": schema.STOP,
    "stream": schema.BOOLEAN,
    "temperature": schema.NUMBER,
    "top_k": schema.INTEGER,
    "top_p": schema.NUMBER,
    "cache_salt": schema.STRING,
}


def read_count(body: Json) -> Json:
    """Fields of ``count_tokens``. Raises ``ApiError``."""
    return check_fields(body, _COUNTED, ("model", "messages"))


def read(body: Json) -> Json:
    """Fields of ``messages``. Raises ``ApiError``."""
    values = check_fields(body, _FIELDS, ("model", "messages", "max_tokens"))
    thinking = values.get("thinking", {})
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens", 0)
        if budget >= values["max_tokens"]:
            text = "thinking.budget_tokens must be less than max_tokens"
            raise schema.invalid([value_error("body", text, body)])
    return values


def chat_values(values: Json) -> Json:
    """The request as ``/v1/chat/completions`` has it, but for the tools."""
    chat: Json = {"messages": chat_messages(values), "model": values["model"]}
    names = {"stop_sequences": "stop", "max_tokens": "max_completion_tokens"}
    for name in ("temperature", "top_p", "top_k", "cache_salt", "stream", *names):
        if name in values:
            chat[names.get(name, name)] = values[name]
    chat["stream_options"] = {"include_usage": True}
    extra = dict(values.get("chat_template_kwargs", {}))
    kind = values.get("thinking", {}).get("type")
    if kind is not None:
        # Whether a model thinks is its template's business; this one does when it is asked to.
        extra["enable_thinking"] = kind != "disabled"
    if extra:
        chat["chat_template_kwargs"] = extra
    config = values.get("output_config", {})
    form = config.get("format") or {}
    if form.get("schema"):
        wanted = {"name": "json_schema", "schema": form["schema"]}
        chat["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return chat


def chat_tools(values: Json) -> Json:
    """Tools and their choice, as ``/v1/chat/completions`` has them."""
    given = [tool for tool in values.get("tools", ()) if isinstance(tool, dict)]
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name", ""),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            },
        }
        for tool in given
    ]
    wanted = values.get("tool_choice", {})
    kind, name = wanted.get("type", "auto"), wanted.get("name")
    choice: Any = {"auto": "auto", "any": "required", "none": "none"}.get(kind, "auto")
    if kind == "tool":
        if not any(tool.get("name") == name for tool in given):
            text = f"The tool with name '{name}' is not found in the tools list."
            raise ApiError(400, "BadRequestError", text)
        choice = {"type": "function", "function": {"name": name}}
    body: Json = {"tools": tools, "tool_choice": choice if tools else "none"}
    if wanted.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False
    return body


def chat_messages(values: Json) -> list[Json]:
    """Blocks become chat's content, tool calls and answers of tools."""
    messages: list[Json] = []
    system = _system_text(values.get("system"))
    if system:
        messages.append({"role": "system", "content": system})
    for message in values["messages"]:
        role, content = message["role"], message["content"]
        if role == "system":
            text = _system_text(content)
            messages += [{"role": "system", "content": text}] if text else []
        elif isinstance(content, str):
            messages.append({"role": role, "content": content})
        else:
            _add_blocks(messages, role, content)
    return messages


def _system_text(content: str | list[Json] | None) -> str:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    texts = [str(b.get("text") or "") for b in blocks if b.get("type") == "text"]
    # Claude Code's billing header has a new digest in every request: vLLM leaves it out.
    return "".join(text for text in texts if not text.startswith(_BILLING))


def _add_blocks(messages: list[Json], role: str, blocks: list[Json]) -> None:
    message: Json = {"role": role}
    parts: list[Json] = []
    calls: list[Json] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = block["type"]
        if kind == "text" and block.get("text"):
            parts.append({"type": "text", "text": block["text"]})
        elif kind == "image":
            parts.append({"type": "image_url", "image_url": {"url": ""}})
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {})
            function = {"name": block.get("name") or "", "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result" and role == "user":
            messages.append(_tool_message(block))
        elif kind == "tool_result":
            parts.append({"type": "text", "text": f"Tool result: {block.get('content') or ''}"})
    if thoughts:
        message["reasoning"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    if parts:
        message["content"] = parts
    if role != "user" or parts:
        messages.append(message)


def _tool_message(block: Json) -> Json:
    content = block.get("content")
    if isinstance(content, list):
        texts = [str(item.get("text", "")) for item in content if item.get("type") == "text"]
        content = "\n".join(texts)
    return {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": content}
