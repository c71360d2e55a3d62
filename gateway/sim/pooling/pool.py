"""Prompts through the engine, each with one step after its prefill; then the answer."""

from collections.abc import Callable, Sequence

from gateway.sim.exchange import Exchange
from gateway.sim.machine import Machine
from gateway.sim.requests import Prompt
from gateway.sim.run import Run
from gateway.sim.schema import Json
from gateway.sim.sequence import Sequence as Running
from gateway.sim.sequence import Step


def pool(
    machine: Machine,
    exchange: Exchange,
    prompts: Sequence[Prompt],
    values: Json,
    answer: Callable[[], None],
) -> None:
    """Run all prompts of a request, then ``answer``, unless the client has left."""

    def deliver(_sequence: Running, _step: Step) -> None:
        if run.done:
            answer()

    run = Run(machine.engine, exchange.response, deliver)
    for prompt in prompts:
        run.pool(prompt.tokens)
    run.use(machine.models.adapter(values.get("model")), values.get("cache_salt"))
    run.start()


def usage(exchange: Exchange, prompts: Sequence[Prompt]) -> Json:
    """``usage`` of all surfaces but rerank and Cohere's; a fault may make it zero."""
    count = tokens(exchange, prompts)
    return {
        "prompt_tokens": count,
        "total_tokens": count,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def tokens(exchange: Exchange, prompts: Sequence[Prompt]) -> int:
    """Tokens of all prompts."""
    fault = exchange.response.fault
    if fault is not None and "zero-usage" in fault:
        return 0
    return sum(len(prompt.tokens) for prompt in prompts)


def send(exchange: Exchange, value: Json) -> None:
    """The answer; a fault may take its usage away."""
    fault = exchange.response.fault
    if fault is not None and "no-usage" in fault:
        value.pop("usage", None)
    exchange.send(200, value)
