"""Rules of bodies for generation and tokenizing: field types, and rules between fields.

From ``chat_completion/protocol.py``, ``completion/protocol.py`` and ``tokenize/protocol.py`` of
vLLM. A union reports the errors of every branch, as pydantic does.
"""

from gateway.sim import schema
from gateway.sim.sampling import FIELDS, check_integers, check_stream_options
from gateway.sim.schema import Json, bad_request, field_error

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MAX_PROMPTS = 1024
_UNION = (
    "ChatCompletionDeveloperMessageParam",
    "ChatCompletionSystemMessageParam",
    "ChatCompletionUserMessageParam",
    "ChatCompletionAssistantMessageParam",
    "ChatCompletionToolMessageParam",
    "ChatCompletionFunctionMessageParam",
    "CustomChatCompletionMessageParam",
)


def check_chat_rules(body: Json) -> None:
    check_stream_options(body)
    check_integers(body, "prompt_logprobs", "top_logprobs")
    top = body.get("top_logprobs")
    if top and not body.get("logprobs"):
        raise bad_request(
            "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs"
        )
    form = body.get("response_format")
    if (
        isinstance(form, dict)
        and form.get("type") == "json_schema"
        and form.get("json_schema") is None
    ):
        raise bad_request(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
            "response_format",
        )
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        raise bad_request(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    _check_tools(body)


def _check_tools(body: Json) -> None:
    tools = body.get("tools")
    if tools == []:
        raise bad_request(
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if "tool_choice" not in body and tools:
        body["tool_choice"] = "auto"
    choice = body.get("tool_choice")
    if choice is None or choice == "none":
        return
    if tools is None:
        raise bad_request("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, dict):
        _check_named_tool(choice, tools)
    elif choice not in ("auto", "required"):
        raise bad_request(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or '
            '"required" are supported.',
            "tool_choice",
        )


def _check_named_tool(choice: Json, tools: list[Json]) -> None:
    usage = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'
    function = choice.get("function")
    if not isinstance(function, dict):
        raise bad_request(
            f"Invalid value for `function`: `{function}` in `tool_choice`! {usage}",
            "tool_choice.function",
        )
    if "name" not in function:
        raise bad_request(
            f"Expected field `name` in `function` in `tool_choice`! {usage}",
            "tool_choice.function.name",
        )
    if not any(tool["function"]["name"] == function["name"] for tool in tools):
        raise bad_request(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        )


def check_completion_rules(body: Json) -> None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > _MAX_PROMPTS and not isinstance(prompt[0], int):
        raise bad_request(
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of "
            f"{_MAX_PROMPTS}. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS "
            "environment variable.",
            "prompt",
        )
    if prompt is None or prompt == "":
        raise bad_request(
            "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
        )
    check_stream_options(body)
    check_integers(body, "prompt_logprobs", "logprobs")


def check_prompt(value: object, loc: str) -> schema.Checked:
    """The union of ids, lists of ids, text and lists of text, with pydantic's four branches."""
    if isinstance(value, str):
        return value, []
    if not isinstance(value, list):
        wrong = [schema.LIST(value, loc)[1][0] for _ in range(3)]
        return None, [*wrong[:2], schema.STRING(value, loc)[1][0], wrong[2]]
    if _ids(value) or all(isinstance(v, list) and _ids(v) for v in value):
        return value, []
    if all(isinstance(v, str) for v in value):
        return value, []
    first = [e for i, v in enumerate(value) for e in _check_id(v, f"{loc}.{i}")]
    second = [e for i, v in enumerate(value) for e in schema.LIST(v, f"{loc}.{i}")[1]]
    fourth = [e for i, v in enumerate(value) for e in schema.STRING(v, f"{loc}.{i}")[1]]
    return None, [*first, *second, *schema.STRING(value, loc)[1], *fourth]


def _ids(value: list[object]) -> bool:
    return all(type(v) is int and v >= 0 for v in value)


def _check_id(value: object, loc: str) -> list[Json]:
    number, errors = schema.INTEGER(value, loc)
    if not errors and number < 0:
        message = "Input should be greater than or equal to 0"
        errors = [field_error("greater_than_equal", loc, message, value, ge=0)]
    return errors


def _check_ids(value: object, loc: str) -> schema.Checked:
    ids, errors = schema.LIST(value, loc)
    return ids, errors or [e for i, v in enumerate(ids) for e in _check_id(v, f"{loc}.{i}")]


def check_messages(value: object, loc: str) -> schema.Checked:
    """A list of messages with roles."""
    messages, errors = schema.LIST(value, loc)
    for number, message in enumerate(messages or ()):
        errors = errors + _check_message(message, f"{loc}.{number}")
    return messages, errors


def _check_message(message: object, loc: str) -> list[Json]:
    if isinstance(message, dict):
        if isinstance(message.get("role"), str):
            return []
        missing = [(name, "role") for name in _UNION]
        missing.insert(5, ("ChatCompletionToolMessageParam", "tool_call_id"))
        missing.insert(6, ("ChatCompletionFunctionMessageParam", "name"))
        missing += [("Message", "author"), ("Message", "content")]
        return [
            field_error("missing", f"{loc}.{name}.{field}", "Field required", message)
            for name, field in missing
        ]
    errors = [schema.MAPPING(message, f"{loc}.{name}")[1][0] for name in _UNION]
    return errors + schema.MODEL(message, f"{loc}.Message")[1]


CHAT_FIELDS = {
    "messages": check_messages,
    "model": schema.STRING,
    **FIELDS,
    "logprobs": schema.BOOLEAN,
    "top_logprobs": schema.INTEGER,
    "max_completion_tokens": schema.INTEGER,
    "response_format": schema.MODEL,
    "tools": schema.LIST,
    "reasoning_effort": schema.one_of(*_EFFORTS),
    "include_reasoning": schema.BOOLEAN,
    "parallel_tool_calls": schema.BOOLEAN,
    "echo": schema.BOOLEAN,
    "add_generation_prompt": schema.BOOLEAN,
    "continue_final_message": schema.BOOLEAN,
    "chat_template_kwargs": schema.MAPPING,
    "return_prompt_text": schema.BOOLEAN,
}
COMPLETION_FIELDS = {
    "model": schema.STRING,
    "prompt": check_prompt,
    "echo": schema.BOOLEAN,
    "logprobs": schema.INTEGER,
    **FIELDS,
    "suffix": schema.STRING,
    "response_format": schema.MODEL,
}
TOKENIZE_FIELDS = {
    "model": schema.STRING,
    "prompt": schema.STRING,
    "messages": check_messages,
    "add_special_tokens": schema.BOOLEAN,
    "add_generation_prompt": schema.BOOLEAN,
    "return_token_strs": schema.BOOLEAN,
}
DETOKENIZE_FIELDS = {"model": schema.STRING, "tokens": _check_ids}
