"""``/v1/embeddings``, ``/v2/embed``, ``/pooling`` and ``/classify``."""

import base64
from collections.abc import Sequence

from gateway.sim import schema
from gateway.sim.exchange import VARY, Exchange, Routes
from gateway.sim.machine import Machine
from gateway.sim.pooling import encodings
from gateway.sim.pooling.pool import pool, send, tokens, usage
from gateway.sim.pooling.request import FIELDS, fit, prompts, read
from gateway.sim.pooling.vectors import Vector, embed, logits, normalised, softmax
from gateway.sim.requests import Prompt
from gateway.sim.schema import ApiError, Checked, Json, bad_request, check_fields

LABELS = ("LABEL_0", "LABEL_1")
_EMBED_FIELDS = {**FIELDS, **encodings.FIELDS, "dimensions": schema.INTEGER}
_POOLING_FIELDS = {**_EMBED_FIELDS, "task": schema.STRING}
_INPUT_TYPES = ("classification", "clustering", "search_document", "search_query")
_TYPE = schema.one_of("float", "binary", "ubinary", "base64")


def _check_types(value: object, loc: str) -> Checked:
    types, errors = schema.LIST(value, loc)
    return types, errors or [e for i, t in enumerate(types) for e in _TYPE(t, f"{loc}.{i}")[1]]


_COHERE_FIELDS = {
    "model": schema.STRING,
    "input_type": schema.STRING,
    "texts": schema.LIST,
    "images": schema.LIST,
    "inputs": schema.LIST,
    "output_dimension": schema.INTEGER,
    "embedding_types": _check_types,
    "truncate": schema.one_of("NONE", "START", "END"),
    "max_tokens": schema.INTEGER,
}


class Pooling:
    """Vectors of texts, and what a classifier says of them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/embeddings": {"POST": self._embeddings},
            "/v2/embed": {"POST": self._cohere},
            "/pooling": {"POST": self._pooling},
            "/classify": {"POST": self._classify},
        }

    def _embeddings(self, exchange: Exchange) -> None:
        missing = ("input", "messages", "messages", "messages", "input", "messages", "input")
        values = read(exchange.body(), _EMBED_FIELDS, missing)
        self._machine.models.check_pooling(values.get("model"))
        size = self._size(values.get("dimensions"))
        self._vectors(exchange, values, ("embd-", "embedding", "embedding"), size)

    def _pooling(self, exchange: Exchange) -> None:
        values = read(exchange.body(), _POOLING_FIELDS, ("input", "messages", "data"))
        self._machine.models.check_pooling(values.get("model"))
        if "dimensions" in values:
            raise bad_request("dimensions is currently not supported", "dimensions")
        task = values.get("task", "embed")
        if task == "token_embed":
            text = "Try switching the model's pooling_task via --pooler-config.task token_embed."
            raise bad_request(text, "task")
        if task != "embed":
            text = f"Unsupported task: {task!r} Supported tasks: ['embed', 'token_embed']"
            raise bad_request(text, "task")
        size = self._machine.options.embedding_size
        self._vectors(exchange, values, ("pooling-", "pooling", "data"), size)

    def _vectors(
        self, exchange: Exchange, values: Json, words: tuple[str, str, str], size: int
    ) -> None:
        """Run and answer; ``words``: prefix of the id, ``object`` and field of an entry."""
        given = prompts(self._machine, values)
        head = self._head(exchange, values, words[0])

        def answer() -> None:
            vectors = [self._embed(prompt, size) for prompt in given]
            if str(values.get("encoding_format")).startswith("bytes"):
                self._send_bytes(exchange, values, head, vectors, given)
                return
            data = [
                {"index": i, "object": words[1], words[2]: encodings.in_json(vector, values)}
                for i, vector in enumerate(vectors)
            ]
            send(exchange, {**head, "data": data, "usage": usage(exchange, given)})

        pool(self._machine, exchange, given, values, answer)

    @staticmethod
    def _send_bytes(
        exchange: Exchange,
        values: Json,
        head: Json,
        vectors: Sequence[Vector],
        given: Sequence[Prompt],
    ) -> None:
        pieces, places = encodings.as_bytes(vectors, values)
        headers = [(b"content-type", b"application/octet-stream"), VARY]
        if values["encoding_format"] == "bytes":
            count = tokens(exchange, given)
            value = {
                **{name: head[name] for name in ("id", "created", "model")},
                "data": places,
                "usage": {"prompt_tokens": count, "total_tokens": count},
            }
            headers.insert(0, (b"metadata", encodings.metadata(value)))
        exchange.response.open(headers)
        for piece in pieces:
            exchange.response.event(piece)
        exchange.response.end(b"")

    def _classify(self, exchange: Exchange) -> None:
        values = read(exchange.body(), FIELDS, ("input", "messages"))
        self._machine.models.check_pooling(values.get("model"))
        given = prompts(self._machine, values)
        head = self._head(exchange, values, "classify-")

        def answer() -> None:
            data = []
            for index, prompt in enumerate(given):
                found = logits(self._embed(prompt, 64), len(LABELS))
                shown = softmax(found) if values.get("use_activation", True) else found
                label = LABELS[found.index(max(found))]
                entry = {"index": index, "label": label, "probs": shown}
                data.append({**entry, "num_classes": len(LABELS)})
            send(exchange, {**head, "data": data, "usage": usage(exchange, given)})

        pool(self._machine, exchange, given, values, answer)

    def _cohere(self, exchange: Exchange) -> None:
        machine = self._machine
        body = exchange.body()
        values = check_fields(body, _COHERE_FIELDS)
        _check_cohere(body, values)
        machine.models.check_pooling(values.get("model"))
        size = self._size(values.get("output_dimension"))
        given = [machine.reader.prompt(text) for text in _cohere_texts(machine, values)]
        cut, most = values.get("truncate", "END"), values.get("max_tokens")
        for prompt in given:
            if cut == "NONE":
                _check_most(prompt, most)
            keep = None if cut == "NONE" else -1 if most is None else most
            fit(machine, prompt, keep, "left" if cut == "START" else None)
        name = "embd-" + machine.name(exchange.request)

        def answer() -> None:
            vectors = [self._embed(prompt, size) for prompt in given]
            types = values.get("embedding_types") or ["float"]
            written = {"float": _floats, "binary": _signed, "ubinary": _unsigned, "base64": _text}
            shown = {kind: [written[kind](v) for v in vectors] for kind in written if kind in types}
            units = {"input_tokens": tokens(exchange, given), "image_tokens": 0}
            value: Json = {"id": name, "embeddings": shown}
            if "texts" in values:
                value["texts"] = values["texts"]
            value["meta"] = {"api_version": {"version": "2"}, "billed_units": units}
            exchange.send(200, {**value, "response_type": "embeddings_by_type"})

        pool(machine, exchange, given, values, answer)

    def _head(self, exchange: Exchange, values: Json, prefix: str) -> Json:
        machine = self._machine
        return {
            "id": prefix + machine.name(exchange.request, values.get("request_id")),
            "object": "list",
            "created": int(machine.now()),
            "model": machine.models.answered(values.get("model")),
        }

    def _size(self, asked: int | None) -> int:
        """Fewer dimensions than there are, as a Matryoshka model does."""
        largest = self._machine.options.embedding_size
        if asked is not None and not 1 <= asked <= largest:
            text = f"Dimensions must be between 1 and {largest}, got {asked}."
            raise ApiError(400, "BadRequestError", text)
        return asked or largest

    def _embed(self, prompt: Prompt, size: int) -> Vector:
        whole = embed(self._machine.tokenizer, prompt.tokens, self._machine.options.embedding_size)
        return whole if size >= len(whole) else normalised(whole[:size])


def _check_cohere(body: Json, values: Json) -> None:
    given = [values[name] for name in ("texts", "images", "inputs") if name in values]
    if len(given) != 1 or not given[0]:
        message = (
            "Exactly one of texts, images, or inputs must be provided, and it must be non-empty"
        )
        raise schema.invalid([schema.value_error("body", message, body)])
    kind = values.get("input_type")
    if kind is not None and kind not in _INPUT_TYPES:
        text = f"Unsupported input_type {kind!r}. Supported values: {', '.join(_INPUT_TYPES)}"
        raise ApiError(400, "BadRequestError", text)


def _cohere_texts(machine: Machine, values: Json) -> list[str]:
    if "images" in values:
        raise bad_request(f"{machine.models.base} is not a multimodal model")
    texts = list(values.get("texts", ()))
    for item in values.get("inputs", ()):
        parts = item.get("content", ()) if isinstance(item, dict) else ()
        if any(part.get("type") != "text" for part in parts):
            raise bad_request(f"{machine.models.base} is not a multimodal model")
        texts.append("\n".join(str(part.get("text", "")) for part in parts))
    return [str(text) for text in texts]


def _check_most(prompt: Prompt, most: int | None) -> None:
    count = len(prompt.tokens)
    if most is not None and count > most:
        text = (
            f"Input of {count} tokens exceeds max_tokens={most} with truncate=NONE. "
            "Set truncate to END or START to allow truncation."
        )
        raise ApiError(400, "BadRequestError", text)


def _floats(vector: Vector) -> list[float]:
    return vector.tolist()


def _signed(vector: Vector) -> list[int]:
    return encodings.bits(vector, signed=True)


def _unsigned(vector: Vector) -> list[int]:
    return encodings.bits(vector, signed=False)


def _text(vector: Vector) -> str:
    return base64.b64encode(encodings.packed(vector, "float32", "little")).decode()
