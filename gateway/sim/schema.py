"""Checks of JSON bodies, with the words that vLLM's pydantic models use.

Two families, as in vLLM: wrong types become one "N validation errors" message of type
``Bad Request`` (``serve/exception_handling/handlers/validation.py``), wrong values a message of
type ``BadRequestError`` (``vllm.exceptions.VLLMValidationError``).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Json = dict[str, Any]
_MAX_REPORTED = 10


class ApiError(Exception):
    """An answer in vLLM's error shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self) -> Json:
        """``{"error": {"message", "type", "param", "code"}}``, in vLLM's order."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.status,
            }
        }


class BodyUnreadableError(Exception):
    """The body is no UTF-8, or no form; FastAPI answers this before vLLM's own handlers."""

    def __init__(self, message: str = "There was an error parsing the body") -> None:
        super().__init__(message)


def bad_request(message: str, param: str | None = None, **value: object) -> ApiError:
    """vLLM's ``VLLMValidationError``: the parameter and the value are told at the end."""
    notes = [f"parameter={param}"] if param is not None else []
    notes += [f"{name}={shown}" for name, shown in value.items()]
    suffix = f" ({', '.join(notes)})" if notes else ""
    return ApiError(400, "BadRequestError", message + suffix, param)


def invalid(errors: list[Json | str]) -> ApiError:
    """pydantic's list of errors, as vLLM prints it."""
    label = "error" if len(errors) == 1 else "errors"
    lines = "".join(f"  {error}\n" for error in errors[:_MAX_REPORTED])
    if len(errors) > _MAX_REPORTED:
        lines += f"  ...and {len(errors) - _MAX_REPORTED} more {label}\n"
    first = errors[0]
    param = first["loc"] if isinstance(first, dict) else None
    message = f"{len(errors)} validation {label}:\n{lines}".strip()
    return ApiError(400, "Bad Request", message, param)


def field_error(kind: str, loc: str, message: str, value: object, **ctx: object) -> Json:
    """One entry of pydantic's list; ``value`` is shown shortened, containers by their size."""
    error: Json = {"type": kind, "loc": loc, "msg": message, "input": _shown(value)}
    if ctx:
        error["ctx"] = ctx
    return error


def value_error(loc: str, message: str, value: object) -> Json:
    """What pydantic makes of a ``ValueError`` in a validator of vLLM's."""
    shown = f"Value error, {message}"
    return field_error("value_error", loc, shown, value, error=ValueError(message))


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "...[truncated]"


def decode(body: bytes) -> Json:
    """The JSON object in ``body``. Raises ``ApiError`` or ``BodyUnreadableError``."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = _decode_slowly(body)
    if value is None:
        raise invalid([field_error("missing", "body", "Field required", None)])
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid([field_error("model_attributes_type", "body", message, value)])
    return value


def _decode_slowly(body: bytes) -> object:
    """Python's own decoder, which vLLM uses: it takes NaN, and words its complaints."""
    if not body:
        return None
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        raise BodyUnreadableError from None
    except json.JSONDecodeError as error:
        # pydantic puts the message into `ctx`, and shows an empty object for the input.
        entry = field_error("json_invalid", f"body.{error.pos}", "JSON decode error", {})
        entry["ctx"] = {"error": error.msg}
        raise invalid([entry]) from None


Checked = tuple[Any, list[Json]]
Check = Callable[[Any, str], Checked]


def _integer(value: object, loc: str) -> Checked:
    if isinstance(value, bool | int):
        return int(value), []
    if isinstance(value, float):
        if value.is_integer():
            return int(value), []
        message = "Input should be a valid integer, got a number with a fractional part"
        return None, [field_error("int_from_float", loc, message, value)]
    if isinstance(value, str):
        try:
            return int(value), []
        except ValueError:
            message = "Input should be a valid integer, unable to parse string as an integer"
            return None, [field_error("int_parsing", loc, message, value)]
    return None, [field_error("int_type", loc, "Input should be a valid integer", value)]


def _number(value: object, loc: str) -> Checked:
    if isinstance(value, bool | int | float):
        return float(value), []
    if isinstance(value, str):
        try:
            return float(value), []
        except ValueError:
            message = "Input should be a valid number, unable to parse string as a number"
            return None, [field_error("float_parsing", loc, message, value)]
    return None, [field_error("float_type", loc, "Input should be a valid number", value)]


_TRUE = {"1", "true", "t", "yes", "y", "on"}
_FALSE = {"0", "false", "f", "no", "n", "off"}


def _boolean(value: object, loc: str) -> Checked:
    if isinstance(value, bool):
        return value, []
    if isinstance(value, str | int | float):
        text = str(value).lower()
        if text in _TRUE | _FALSE:
            return text in _TRUE, []
        message = "Input should be a valid boolean, unable to interpret input"
        return None, [field_error("bool_parsing", loc, message, value)]
    return None, [field_error("bool_type", loc, "Input should be a valid boolean", value)]


def _string(value: object, loc: str) -> Checked:
    if isinstance(value, str):
        return value, []
    return None, [field_error("string_type", loc, "Input should be a valid string", value)]


def _list(value: object, loc: str) -> Checked:
    if isinstance(value, list):
        return value, []
    return None, [field_error("list_type", loc, "Input should be a valid list", value)]


def _model(value: object, loc: str) -> Checked:
    if isinstance(value, dict):
        return value, []
    message = "Input should be a valid dictionary or object to extract fields from"
    return None, [field_error("model_attributes_type", loc, message, value)]


def _mapping(value: object, loc: str) -> Checked:
    if isinstance(value, dict):
        return value, []
    return None, [field_error("dict_type", loc, "Input should be a valid dictionary", value)]


def _stop(value: object, loc: str) -> Checked:
    if isinstance(value, str):
        return [value], []
    errors = _string(value, loc)[1]
    if not isinstance(value, list):
        return None, errors + _list(value, loc)[1]
    if len(value) > 4:
        message = f"List should have at most 4 items after validation, not {len(value)}"
        sizes = {"field_type": "List", "max_length": 4, "actual_length": len(value)}
        return None, [*errors, field_error("too_long", loc, message, value, **sizes)]
    wrong = [e for i, item in enumerate(value) for e in _string(item, f"{loc}.{i}")[1]]
    return value, errors + wrong if wrong else []


def one_of(*names: str) -> Check:
    """A closed set of strings."""
    expected = ", ".join(f"'{name}'" for name in names[:-1]) + f" or '{names[-1]}'"

    def check(value: object, loc: str) -> Checked:
        if value in names:
            return value, []
        message = f"Input should be {expected}"
        return None, [field_error("literal_error", loc, message, value, expected=expected)]

    return check


INTEGER, NUMBER, BOOLEAN, STRING = _integer, _number, _boolean, _string
LIST, MODEL, MAPPING, STOP = _list, _model, _mapping, _stop


def check_fields(body: Json, fields: Mapping[str, Check], required: tuple[str, ...] = ()) -> Json:
    """Known fields with their values coerced as pydantic does; null counts as absent.

    Raises ``ApiError`` with every wrong field, in the order of ``fields``.
    """
    errors: list[Json | str] = []
    values: Json = {}
    for name, check in fields.items():
        value = body.get(name)
        if value is None:
            if name in required:
                errors.append(
                    field_error("missing", f"body.{name}", "Field required", body)
                    if name not in body
                    else check(None, f"body.{name}")[1][0]
                )
            continue
        values[name], wrong = check(value, f"body.{name}")
        errors.extend(wrong)
    if errors:
        raise invalid(errors)
    return values
