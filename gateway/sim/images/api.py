"""``/v1/images/generations`` and ``/v1/images/edits``."""

import base64
import re

from gateway.sim import schema
from gateway.sim.exchange import Exchange, Routes
from gateway.sim.images.png import picture
from gateway.sim.machine import Machine
from gateway.sim.run import Run
from gateway.sim.schema import Json, bad_request, check_fields, field_error, invalid
from gateway.sim.sequence import Sequence, Step

MAX_IMAGES = 10
MAX_SIDE = 2048
_DEFAULT_SIDE = 64
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_FIELDS = {
    "model": schema.STRING,
    "prompt": schema.STRING,
    "n": schema.INTEGER,
    "size": schema.STRING,
    "seed": schema.INTEGER,
    "response_format": schema.STRING,
    "user": schema.STRING,
}


class Images:
    """Small pictures that depend on nothing but the request."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/images/generations": {"POST": self._generate},
            "/v1/images/edits": {"POST": self._edit},
        }

    def _generate(self, exchange: Exchange) -> None:
        values = check_fields(exchange.body(), _FIELDS, ("prompt",))
        self._make(exchange, values, "")

    def _edit(self, exchange: Exchange) -> None:
        form = exchange.form()
        given = dict(form.fields)
        sources = [one for one in form.files if one.name in ("image", "image[]", "mask")]
        if not sources:
            raise invalid([field_error("missing", "body.image", "Field required", given)])
        values = check_fields(given, _FIELDS, ("prompt",))
        self._make(exchange, values, "/".join(one.digest for one in sources))

    def _make(self, exchange: Exchange, values: Json, sources: str) -> None:
        machine = self._machine
        machine.models.check(values.get("model"))
        count, (width, height) = values.get("n", 1), _size(values.get("size", "auto"))
        if not 1 <= count <= MAX_IMAGES:
            raise bad_request(f"n must be between 1 and {MAX_IMAGES}", "n", value=count)
        if values.get("response_format", "b64_json") != "b64_json":
            raise bad_request("Only response_format 'b64_json' is supported", "response_format")
        machine.admit(count)
        prompt = machine.reader.prompt(values["prompt"])
        machine.reader.check_length(prompt, from_text=True)
        seed = f"{values.get('seed')}/{sources}/{prompt.text}"

        def deliver(_sequence: Sequence, _step: Step) -> None:
            if not run.done:
                return
            pictures = [picture(f"{seed}/{n}".encode(), width, height) for n in range(count)]
            data = [{"b64_json": base64.b64encode(one).decode()} for one in pictures]
            exchange.send(200, {"created": int(machine.now()), "data": data})

        run = Run(machine.engine, exchange.response, deliver)
        for _ in range(count):
            run.pool(prompt.tokens)
        run.start()


def _size(text: str) -> tuple[int, int]:
    if text == "auto":
        return _DEFAULT_SIDE, _DEFAULT_SIDE
    match = _SIZE.fullmatch(text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise bad_request(
            f"size must be WIDTHxHEIGHT, each from 1 to {MAX_SIDE}", "size", value=text
        )
    return sides
