"""Requests for generation: a checked JSON body becomes one ``GenerateRequest``.

The order of the checks is vLLM's: types, then rules between fields, the model, admission, the
prompt's length, sampling parameters. What only the engine notices comes back as ``late``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.sim.answers import Task
from gateway.sim.models import ModelNames
from gateway.sim.options import SimOptions
from gateway.sim.rules import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    check_chat_rules,
    check_completion_rules,
)
from gateway.sim.sampling import Sampling, late_error, sampling
from gateway.sim.schema import ApiError, Json, bad_request, check_fields
from gateway.sim.text import VOCAB_SIZE, Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, in text and in tokens."""

    text: str
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What chat and completions have in common when the checks are done."""

    chat: bool
    prompts: list[Prompt]
    sampling: Sampling
    task: Task
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    echo: str | None = None
    """Chat: the text to repeat first. Completions: "" asks for the prompt."""
    max_tokens_zero: bool = False
    logprobs: int | None = None
    """Number of alternatives per token; None: no logprobs. -1: all that there are."""
    prompt_logprobs: int | None = None
    tokens_as_ids: bool = False
    return_token_ids: bool = False
    return_prompt_text: bool = False
    parsed_tools: bool = False
    """A tool parser reads the output (there are tools, and ``tool_choice`` is not none)."""
    named_tool: bool = False
    required_tool: bool = False
    single_call: bool = False
    role: str = "assistant"
    body_id: str | None = None
    cache_salt: str | None = None
    model: str | None = None
    """The name that the client used."""
    adapter: str | None = None
    """The LoRA adapter of that name."""
    late: ApiError | None = None


class RequestReader:
    """Reads bodies for one worker. ``admit(n)`` raises ``ApiError`` when the queue is full."""

    def __init__(
        self,
        options: SimOptions,
        tokenizer: Tokenizer,
        models: ModelNames,
        admit: Callable[[int], None],
    ) -> None:
        self._models = models
        self._max_model_len = options.max_model_len
        self._tokenizer = tokenizer
        self._admit = admit

    def chat(self, body: Json) -> GenerateRequest:
        """``/v1/chat/completions``. Raises ``ApiError``."""
        check_chat_rules(body)
        values = check_fields(body, CHAT_FIELDS, ("messages",))
        self._models.check(values.get("model"))
        self._admit(values.get("n", 1))
        limit_name = "max_completion_tokens" if "max_completion_tokens" in values else "max_tokens"
        return self.conversation(body, values, limit_name)

    def conversation(self, body: Json, values: Json, limit_name: str) -> GenerateRequest:
        """What follows when types, model and admission are checked.

        Responses and messages come here too, in chat's terms: ``values`` with the coerced fields,
        ``body`` with tools and ``tool_choice``; ``limit_name`` is the field that bounds the output.
        """
        messages = values["messages"]
        prompt = self.chat_prompt(messages, values.get("add_generation_prompt", True))
        params = self._sampling(
            values, [prompt], limit_name, values.get(limit_name), from_text=True
        )
        tools, choice = body.get("tools") or [], body.get("tool_choice")
        logprobs = values.get("top_logprobs", 0) if values.get("logprobs") else None
        return GenerateRequest(
            chat=True,
            prompts=[prompt],
            sampling=params,
            task=_task(values, params, _chosen_tools(body, messages)),
            echo=_echo(values, messages),
            logprobs=logprobs,
            parsed_tools=bool(tools) and choice != "none",
            named_tool=isinstance(choice, dict),
            required_tool=choice == "required",
            single_call=body.get("parallel_tool_calls") is False,
            role=_role(values, messages),
            return_prompt_text=values.get("return_prompt_text", False),
            late=late_error(values, logprobs),
            prompt_logprobs=values.get("prompt_logprobs"),
            adapter=self._models.adapter(values.get("model")),
            **_common(values),
        )

    def completion(self, body: Json) -> GenerateRequest:
        """``/v1/completions``. Raises ``ApiError``."""
        check_completion_rules(body)
        values = check_fields(body, COMPLETION_FIELDS)
        self._models.check(values.get("model"))
        if values.get("suffix") is not None:
            text = "suffix is only supported for models with FIM completion rendering"
            raise ApiError(400, "BadRequestError", text, "suffix")
        self._admit(values.get("n", 1))
        prompts = [self.prompt(one) for one in _prompts(values["prompt"])]
        asked = values.get("max_tokens", 16)
        echo = values.get("echo", False)
        # Only to echo: vLLM generates one token all the same, and does not show it.
        nothing = echo and asked == 0
        params = self._sampling(
            values,
            prompts,
            "max_tokens",
            1 if nothing else asked,
            from_text=isinstance(values["prompt"][0], str),
        )
        logprobs = values.get("logprobs")
        unknown = [i for p in prompts for i in p.tokens if i >= VOCAB_SIZE]
        late = late_error(values, logprobs)
        if unknown:
            late = bad_request(f"Token id {max(unknown)} is out of vocabulary")
        return GenerateRequest(
            chat=False,
            prompts=prompts,
            sampling=params,
            task=_task(values, params, ()),
            echo="" if echo else None,
            max_tokens_zero=nothing,
            logprobs=logprobs,
            late=late,
            prompt_logprobs=values.get("prompt_logprobs", logprobs if echo else None),
            adapter=self._models.adapter(values.get("model")),
            **_common(values),
        )

    def chat_prompt(self, messages: list[Json], opened: bool = True) -> Prompt:
        """The chat template: ``<|role|>content`` and a line end for each message."""
        if not messages:
            raise bad_request(
                "Cannot apply chat template to an empty conversation. Provide at least one message."
            )
        text, tokens = [], []
        encode, role = self._tokenizer.encode, self._tokenizer.role
        for message in messages:
            content = self._content(message.get("content"))
            name = str(message["role"])
            text.append(f"<|{name}|>{content}\n")
            tokens += [role(name), *encode(content), *encode("\n")]
        if opened:
            text.append("<|assistant|>")
            tokens.append(role("assistant"))
        return Prompt("".join(text), tokens)

    def _content(self, content: object) -> str:
        if not isinstance(content, list):
            return content if isinstance(content, str) else ""
        parts = []
        for part in content:
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in ("text", "input_text", "refusal"):
                raise bad_request(f"{self._models.base} is not a multimodal model")
            parts.append(part.get("text", "") if isinstance(part, dict) else str(part))
        return "\n".join(parts)

    def prompt(self, prompt: str | list[int]) -> Prompt:
        """A prompt that was given as text or as token ids. Raises ``ApiError``."""
        if isinstance(prompt, list):
            found = Prompt(self._tokenizer.decode(prompt), prompt)
        else:
            self._check_characters(prompt)
            found = Prompt(prompt, self._tokenizer.encode(prompt))
        if not found.tokens:
            raise bad_request("The decoder prompt cannot be empty")
        return found

    def _check_characters(self, text: str) -> None:
        limit = self._max_model_len * self._tokenizer.max_chars_per_token
        if len(text) > limit:
            raise bad_request(
                f"This model's maximum context length is {self._max_model_len} tokens. However, "
                f"your prompt contains {len(text)} characters (more than {limit} characters, "
                f"which is the upper bound for {self._max_model_len} input tokens). "
                "Please reduce the length of the input prompt.",
                "input_text",
                value=len(text),
            )

    def _sampling(
        self,
        values: Json,
        prompts: list[Prompt],
        limit_name: str,
        asked: int | None,
        *,
        from_text: bool,
    ) -> Sampling:
        room = self._max_model_len
        if asked is not None and asked > room:
            raise bad_request(
                f"{limit_name}={asked} cannot be greater than max_model_len={room}. "
                "Please request fewer output tokens.",
                limit_name,
                value=asked,
            )
        keep = values.get("truncate_prompt_tokens")
        for prompt in prompts:
            if keep is not None:
                del prompt.tokens[: -(keep if keep >= 0 else room) or None]
            self.check_length(prompt, from_text)
        left = room - max(len(prompt.tokens) for prompt in prompts)
        return sampling(values, left if asked is None else min(asked, left))

    def check_length(self, prompt: Prompt, from_text: bool) -> None:
        """Raises ``ApiError`` for a prompt that does not fit into the context."""
        room, count = self._max_model_len, len(prompt.tokens)
        if count <= room:
            return
        # The tokenizer stops one token beyond the limit, so the true length is not known.
        qualifier = ""
        if from_text or count == room + 1:
            qualifier, count = "at least ", room + 1
        raise bad_request(
            f"This model's maximum context length is {room} tokens. However, your prompt "
            f"contains {qualifier}{count} input tokens, which exceeds this limit even without "
            "any output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
            value=count,
        )


def _common(values: Json) -> Json:
    options = values.get("stream_options", {})
    usage = bool(options.get("include_usage"))
    return {
        "stream": values.get("stream", False),
        "include_usage": usage,
        "continuous_usage": usage and bool(options.get("continuous_usage_stats")),
        "tokens_as_ids": values.get("return_tokens_as_token_ids", False),
        "return_token_ids": values.get("return_token_ids", False),
        "body_id": values.get("request_id"),
        "cache_salt": values.get("cache_salt"),
        "model": values.get("model"),
    }


def _task(values: Json, params: Sampling, tools: tuple[Json, ...]) -> Task:
    effort = values.get("reasoning_effort")
    thinking = values.get("chat_template_kwargs", {}).get("enable_thinking")
    form = values.get("response_format", {})
    wanted = None
    if form.get("type") == "json_object":
        wanted = {"properties": {"answer": {"type": "string"}, "number": {"type": "integer"}}}
    elif form.get("type") == "json_schema":
        wanted = (form.get("json_schema") or {}).get("schema") or {}
    return Task(
        think=bool(thinking) or (effort not in (None, "none") and thinking is not False),
        tools=tools,
        schema=wanted,
        ignore_eos=params.ignore_eos,
        min_tokens=params.min_tokens,
    )


def _chosen_tools(body: Json, messages: list[Json]) -> tuple[Json, ...]:
    """The calls that the pretended model makes.

    A named tool: that one. Else the first, and the second too unless ``parallel_tool_calls`` is
    false. With ``auto``, an answer of a tool is answered with text, so that agents end.
    """
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    functions = [tool["function"] for tool in tools]
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        return tuple(f for f in functions if f["name"] == name)[:1]
    if choice == "required" or (choice == "auto" and messages[-1]["role"] != "tool"):
        return tuple(functions[: 1 if body.get("parallel_tool_calls") is False else 2])
    return ()


def _role(values: Json, messages: list[Json]) -> str:
    """The answer's role: the last message's when the client opens no new one."""
    return "assistant" if values.get("add_generation_prompt", True) else str(messages[-1]["role"])


def _echo(values: Json, messages: list[Json]) -> str | None:
    """The last message, if the answer goes on with it."""
    content = messages[-1].get("content")
    if not values.get("echo") or messages[-1]["role"] != _role(values, messages):
        return None
    return content if isinstance(content, str) and content else None


def _prompts(prompt: str | list[Any]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise bad_request("You must pass at least one prompt")
    return [prompt] if isinstance(prompt[0], int) else prompt
