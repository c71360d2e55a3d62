"""Inputs of the pooling surfaces: texts, token ids or chats become prompts."""

from collections.abc import Sequence

from gateway.sim import schema
from gateway.sim.machine import Machine
from gateway.sim.requests import Prompt
from gateway.sim.rules import check_messages, check_prompt
from gateway.sim.schema import Checked, Json, bad_request, check_fields, field_error, invalid
from gateway.sim.text import VOCAB_SIZE


def _check_input(value: object, loc: str) -> Checked:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return check_messages(value, loc)
    return check_prompt(value, loc)


def _check_truncation(value: object, loc: str) -> Checked:
    number, errors = schema.INTEGER(value, loc)
    if not errors and number < -1:
        message = "Input should be greater than or equal to -1"
        errors = [field_error("greater_than_equal", loc, message, value, ge=-1)]
    return number, errors


COMMON = {
    "model": schema.STRING,
    "user": schema.STRING,
    "truncate_prompt_tokens": _check_truncation,
    "truncation_side": schema.one_of("left", "right"),
    "request_id": schema.STRING,
    "priority": schema.INTEGER,
    "cache_salt": schema.STRING,
    "use_activation": schema.BOOLEAN,
}
INPUT = {
    "input": _check_input,
    "messages": check_messages,
    "add_special_tokens": schema.BOOLEAN,
    "add_generation_prompt": schema.BOOLEAN,
}
FIELDS = {**COMMON, **INPUT}


def read(body: Json, fields: dict[str, schema.Check], missing: Sequence[str]) -> Json:
    """Check the fields. ``missing``: what vLLM lists when neither input nor messages are there,
    once for each kind of request that it would take."""
    if "normalize" in body:
        raise bad_request(
            "Parameter `normalize` was removed; use `use_activation` instead.", "normalize"
        )
    if body.get("input") is None and body.get("messages") is None:
        errors = [field_error("missing", f"body.{n}", "Field required", body) for n in missing]
        raise invalid([*errors])
    return check_fields(body, fields)


def prompts(machine: Machine, values: Json) -> list[Prompt]:
    """The prompts of a request. Raises ``ApiError``."""
    given = values.get("input", values.get("messages"))
    if not given and isinstance(given, list):
        raise bad_request("You must pass at least one prompt")
    if isinstance(given, list) and isinstance(given[0], dict):
        opened = values.get("add_generation_prompt", False)
        found = [machine.reader.chat_prompt(given, opened)]
    elif isinstance(given, str) or isinstance(given[0], int):
        found = [machine.reader.prompt(given)]
    else:
        found = [machine.reader.prompt(one) for one in given]
    unknown = [token for prompt in found for token in prompt.tokens if token >= VOCAB_SIZE]
    if unknown:
        raise bad_request(f"Token id {max(unknown)} is out of vocabulary")
    for prompt in found:
        fit(machine, prompt, values.get("truncate_prompt_tokens"), values.get("truncation_side"))
    return found


def fit(machine: Machine, prompt: Prompt, keep: int | None, side: str | None) -> None:
    """Cut a prompt as asked, -1 meaning to what the model takes. Raises ``ApiError``."""
    room = machine.options.max_model_len
    if keep is not None:
        if keep > room:
            raise bad_request(
                "truncate_prompt_tokens value is greater than max_model_len."
                " Please request a smaller truncation size."
            )
        keep = room if keep < 0 else keep
        if side == "left":
            del prompt.tokens[: max(len(prompt.tokens) - keep, 0)]
        else:
            del prompt.tokens[keep:]
    machine.reader.check_length(prompt, from_text=True)
