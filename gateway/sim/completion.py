"""Answers of ``/v1/completions``, as events and whole."""

from gateway.sim.dialect import openai_error
from gateway.sim.requests import GenerateRequest, Prompt
from gateway.sim.schema import ApiError, Json
from gateway.sim.sequence import Finish, Sequence, Step
from gateway.sim.text import Tokenizer
from gateway.sim.wire import DONE, Choice, Logprobs, Names, Usage, encode, event


class CompletionWriter:
    """Writes one answer; choices are numbered over all prompts."""

    def __init__(self, request: GenerateRequest, names: Names, tokenizer: Tokenizer) -> None:
        self._request = request
        self._names = names
        self._tokenizer = tokenizer
        count = request.sampling.n * len(request.prompts)
        self._choices = [Choice() for _ in range(count)]
        self._offsets = [0] * count
        self._opened = [False] * count
        self._logprobs = (
            None
            if request.logprobs is None
            else Logprobs(tokenizer, request.logprobs, request.tokens_as_ids)
        )
        self._fingerprint = encode(names.fingerprint)
        self._start = (
            b'{"id":' + encode(names.id) + b',"object":"text_completion","created":'
            + encode(names.created) + b',"model":' + encode(names.model) + b',"choices":['
        )  # fmt: skip

    def add(self, sequence: Sequence, step: Step) -> None:
        """Take one token for the whole answer."""
        self._choices[sequence.index].add(step)

    def preamble(self) -> list[bytes]:
        """Nothing leaves before the engine's first output."""
        return []

    def opening(self) -> list[bytes]:
        """Completions have no events before the first token."""
        return []

    def token(self, sequence: Sequence, step: Step) -> tuple[bytes, ...]:
        """The event of one token."""
        request, index = self._request, sequence.index
        prompt = self._prompt(index)
        text = step.text
        shown_ids = [step.piece.token_id]
        echoed = 0
        given = b"null"
        if not self._opened[index]:
            self._opened[index] = True
            if request.echo is not None:
                # With token ids asked for, vLLM leaves the prompt's text out.
                before = "" if request.return_token_ids else prompt.text
                text = before if request.max_tokens_zero else before + text
                shown_ids = prompt.tokens + ([] if request.max_tokens_zero else shown_ids)
                echoed = len(prompt.tokens)
            if request.echo is not None or request.return_token_ids:
                given = encode(prompt.tokens)
        logprobs = b"null"
        if self._logprobs is not None:
            place = len(sequence.produced) - 1
            parts, self._offsets[index] = self._logprobs.completion(
                shown_ids, place, self._offsets[index], echoed
            )
            logprobs = encode(parts)
        finish = b"null" if step.finish is None else encode(step.finish.value)
        ids = encode([step.piece.token_id]) if request.return_token_ids else b"null"
        line = (
            self._start + b'{"index":%d,"text":' % index + encode(text) + b',"logprobs":'
            + logprobs + b',"finish_reason":' + finish + b',"stop_reason":'
            + encode(step.stop_reason) + b',"prompt_token_ids":' + given + b',"token_ids":'
            + ids + b"}]" + self._usage(sequence)
        )  # fmt: skip
        if step.finish is not None and not request.include_usage:
            line += b',"system_fingerprint":' + self._fingerprint
        return (event(line + b"}"),)

    def ending(self, usage: Usage | None) -> list[bytes]:
        """The usage event, if it was asked for."""
        if usage is None or not self._request.include_usage:
            return []
        line = self._start + b'],"usage":' + encode(usage.last())
        return [event(line + b',"system_fingerprint":' + self._fingerprint + b"}")]

    def terminal(self, usage: Usage | None) -> bytes:  # noqa: ARG002 - others put it there
        """``[DONE]``."""
        return DONE

    def refused(self, error: ApiError) -> list[bytes]:
        """A late refusal is an error event, and ``[DONE]``."""
        return openai_error(error)

    def reasoning_tokens(self) -> None:
        """Completions know no reasoning."""
        return

    def whole(self, usage: Usage) -> bytes:
        """The answer that is no stream."""
        names = self._names
        return encode(
            {
                "id": names.id,
                "object": "text_completion",
                "created": names.created,
                "model": names.model,
                "choices": [self._choice(i, c) for i, c in enumerate(self._choices)],
                "service_tier": None,
                "system_fingerprint": names.fingerprint,
                "usage": usage.whole(),
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def _prompt(self, index: int) -> Prompt:
        return self._request.prompts[index // self._request.sampling.n]

    def _usage(self, sequence: Sequence) -> bytes:
        if not self._request.continuous_usage:
            return b""
        prompt, produced = len(sequence.prompt), len(sequence.produced)
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
            prompt,
            prompt + produced,
            produced,
        )

    def _choice(self, index: int, choice: Choice) -> Json:
        request, prompt = self._request, self._prompt(index)
        text, ids, echoed = "".join(choice.text), choice.token_ids, 0
        if request.echo is not None:
            before = "" if request.return_token_ids else prompt.text
            text = before if request.max_tokens_zero else before + text
            ids = prompt.tokens + ([] if request.max_tokens_zero else ids)
            echoed = len(prompt.tokens)
        logprobs = prompt_logprobs = None
        if self._logprobs is not None:
            logprobs, _ = self._logprobs.completion(ids, 0, 0, echoed)
        if request.prompt_logprobs is not None:
            given = Logprobs(self._tokenizer, request.prompt_logprobs, False)
            prompt_logprobs = given.prompt(prompt.tokens)
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": (choice.finish or Finish.STOP).value,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.token_ids if request.return_token_ids else None,
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": prompt.tokens if request.return_token_ids else None,
            "routed_experts": None,
        }
