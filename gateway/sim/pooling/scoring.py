"""``/score`` and ``/rerank`` with their other paths: the cosine of two embeddings."""

from gateway.sim import schema
from gateway.sim.exchange import Exchange, Routes
from gateway.sim.machine import Machine
from gateway.sim.pooling.pool import pool, send, tokens, usage
from gateway.sim.pooling.request import COMMON, fit
from gateway.sim.pooling.vectors import cosine, embed
from gateway.sim.requests import Prompt
from gateway.sim.schema import Checked, Json, bad_request, check_fields, field_error, invalid

_PAIRS = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
)
"""The names that vLLM takes for the two sides, in the order in which it tries them."""


def _check_side(value: object, loc: str) -> Checked:
    if isinstance(value, str):
        return value, []
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value, []
    errors = [*schema.STRING(value, loc)[1], *schema.MAPPING(value, loc)[1]]
    if isinstance(value, list):
        inner = ((one, f"{loc}.{number}") for number, one in enumerate(value))
        wrong = [e for one, place in inner for e in schema.STRING(one, place)[1]]
        return None, [*errors, *wrong]
    return None, errors + schema.LIST(value, loc)[1]


def _check_top_n(value: object, loc: str) -> Checked:
    number, errors = schema.INTEGER(value, loc)
    if not errors and number < 0:
        message = "Input should be greater than or equal to 0"
        errors = [field_error("greater_than_equal", loc, message, value, ge=0)]
    return number, errors


_SCORE_FIELDS = {**COMMON, **{name: _check_side for pair in _PAIRS for name in pair}}
_RERANK_FIELDS = {
    **COMMON,
    "query": schema.STRING,
    "documents": _check_side,
    "top_n": _check_top_n,
}


class Scoring:
    """How near texts are to one another."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Routes:
        """Path to method to handler."""
        scores = {path: {"POST": self._score} for path in ("/score", "/v1/score")}
        ranks = {path: {"POST": self._rerank} for path in ("/rerank", "/v1/rerank", "/v2/rerank")}
        return {**scores, **ranks}

    def _score(self, exchange: Exchange) -> None:
        machine, body = self._machine, exchange.body()
        pair = next((p for p in _PAIRS if all(body.get(n) is not None for n in p)), None)
        if pair is None:
            missing = [n for names in _PAIRS for n in names if body.get(n) is None]
            errors = [field_error("missing", f"body.{n}", "Field required", body) for n in missing]
            raise invalid([*errors])
        values = check_fields(body, _SCORE_FIELDS)
        machine.models.check_pooling(values.get("model"))
        left, right = (self._side(values, name) for name in pair)
        _check_lengths(left, right)
        name = "score-" + machine.name(exchange.request, values.get("request_id"))

        def answer() -> None:
            data = [
                {"index": index, "object": "score", "score": score}
                for index, score in enumerate(self._scores(left, right))
            ]
            value: Json = {
                "id": name,
                "object": "list",
                "created": int(machine.now()),
                "model": machine.models.answered(values.get("model")),
                "data": data,
                "usage": usage(exchange, [*left, *right]),
            }
            send(exchange, value)

        pool(machine, exchange, [*left, *right], values, answer)

    def _rerank(self, exchange: Exchange) -> None:
        machine = self._machine
        values = check_fields(exchange.body(), _RERANK_FIELDS, ("query", "documents"))
        machine.models.check_pooling(values.get("model"))
        given = values["documents"]
        documents = [given] if isinstance(given, str) else given
        right = self._side(values, "documents")
        left = self._side(values, "query")
        _check_lengths(left, right)
        name = "score-" + machine.name(exchange.request, values.get("request_id"))

        def answer() -> None:
            scored = sorted(enumerate(self._scores(left, right)), key=lambda one: -one[1])
            results = [
                {
                    "index": index,
                    "document": {"text": documents[index], "multi_modal": None},
                    "relevance_score": score,
                }
                for index, score in scored[: values.get("top_n") or len(scored)]
            ]
            count = tokens(exchange, [*left, *right])
            value: Json = {
                "id": name,
                "model": machine.models.answered(values.get("model")),
                "usage": {"prompt_tokens": count, "total_tokens": count},
                "results": results,
            }
            send(exchange, value)

        pool(machine, exchange, [*left, *right], values, answer)

    def _side(self, values: Json, name: str) -> list[Prompt]:
        given = values[name]
        texts = [given] if isinstance(given, str) else given
        found = [self._machine.reader.prompt(text) for text in texts]
        for prompt in found:
            keep = values.get("truncate_prompt_tokens")
            fit(self._machine, prompt, keep, values.get("truncation_side"))
        return found

    def _scores(self, left: list[Prompt], right: list[Prompt]) -> list[float]:
        size, tokenizer = self._machine.options.embedding_size, self._machine.tokenizer
        ones = [embed(tokenizer, prompt.tokens, size) for prompt in left]
        others = [embed(tokenizer, prompt.tokens, size) for prompt in right]
        if len(ones) == 1:
            ones *= len(others)
        return [cosine(one, other) for one, other in zip(ones, others, strict=True)]


def _check_lengths(left: list[Prompt], right: list[Prompt]) -> None:
    if not left or not right:
        raise bad_request("At least one text_pair element must be given")
    if len(left) not in (1, len(right)):
        raise bad_request("Input lengths must be either 1:1, 1:N or N:N")
