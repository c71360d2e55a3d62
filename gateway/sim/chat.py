"""Answers of ``/v1/chat/completions``, as events and whole."""

from collections.abc import Callable

from gateway.sim.answers import Kind
from gateway.sim.dialect import openai_error
from gateway.sim.requests import GenerateRequest
from gateway.sim.schema import ApiError, Json
from gateway.sim.sequence import Finish, Sequence, Step
from gateway.sim.text import Tokenizer
from gateway.sim.wire import DONE, Choice, Logprobs, Names, Usage, encode, event


class ChatWriter:
    """Writes one answer. ``call_id`` gives the id of the n-th tool call of a choice."""

    def __init__(
        self,
        request: GenerateRequest,
        names: Names,
        tokenizer: Tokenizer,
        call_id: Callable[[int, int], str],
    ) -> None:
        self._request = request
        self._names = names
        self._call_id = call_id
        self._choices = [Choice() for _ in range(request.sampling.n)]
        self._prompt = request.prompts[0]
        self._logprobs = (
            None
            if request.logprobs is None
            else Logprobs(tokenizer, request.logprobs, request.tokens_as_ids)
        )
        self._prompt_logprobs = (
            None
            if request.prompt_logprobs is None
            else Logprobs(tokenizer, request.prompt_logprobs, False).prompt(self._prompt.tokens)
        )
        self._fingerprint = encode(names.fingerprint)
        self._start = (
            b'{"id":' + encode(names.id) + b',"object":"chat.completion.chunk","created":'
            + encode(names.created) + b',"model":' + encode(names.model) + b',"choices":['
        )  # fmt: skip
        # A stream of plain text is the common case: everything but the word is ready.
        self._plain = not (
            request.logprobs is not None
            or request.return_token_ids
            or request.continuous_usage
            or request.parsed_tools
        )
        self._plain_ends = [
            (
                b"data: " + self._start + b'{"index":%d,"delta":{"content":' % number,
                b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n',
            )
            for number in range(request.sampling.n)
        ]

    def add(self, sequence: Sequence, step: Step) -> None:
        """Take one token for the whole answer."""
        self._choices[sequence.index].add(step)

    def preamble(self) -> list[bytes]:
        """Nothing leaves before the engine's first output."""
        return []

    def opening(self) -> list[bytes]:
        """The role events, one per choice; they leave with the engine's first output."""
        request = self._request
        ids = encode(self._prompt.tokens) if request.return_token_ids else b"null"
        text = encode(self._prompt.text) if request.return_prompt_text else b"null"
        role = b'"delta":{"role":' + encode(request.role) + b',"content":""}'
        nothing = b',"logprobs":null,"finish_reason":null}]'
        events = [
            event(
                self._start + b'{"index":%d,' % number + role + nothing + self._usage(None)
                + b',"prompt_token_ids":' + ids + b',"prompt_text":' + text + b"}"
            )
            for number in range(len(self._choices))
        ]  # fmt: skip
        if request.echo:
            delta = b'"delta":{"content":' + encode(request.echo) + b"}"
            events += [
                event(
                    self._start + b'{"index":%d,' % number + delta + nothing
                    + self._usage(None) + b"}"
                )
                for number in range(len(self._choices))
            ]  # fmt: skip
        return events

    def token(self, sequence: Sequence, step: Step) -> tuple[bytes, ...]:
        """The event of one token, if it makes one."""
        if self._plain and step.finish is None and step.piece.kind is Kind.TEXT:
            head, tail = self._plain_ends[sequence.index]
            return (head + encode(step.text) + tail,)
        choice = self._choices[sequence.index]
        choice.add(step)
        delta = self._delta(sequence.index, step)
        if delta is None:
            if step.finish is None and not self._wants_every_token():
                return ()
            delta = b"{}"
        request, index = self._request, sequence.index
        line = self._start + b'{"index":%d,"delta":' % index + delta + b',"logprobs":'
        line += self._logprobs_of(sequence, step) + b',"finish_reason":'
        if step.finish is None:
            line += b"null"
        else:
            line += encode(self._finish_reason(choice, step.finish))
            line += b',"stop_reason":' + encode(step.stop_reason)
        ids = encode([step.piece.token_id]) if request.return_token_ids else b"null"
        line += b',"token_ids":' + ids + b"}]" + self._usage(sequence)
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

    def reasoning_tokens(self) -> int | None:
        """Tokens of thoughts in all choices; None when this is no thinking model."""
        if not self._request.task.think:
            return None
        return sum(choice.reasoning_tokens for choice in self._choices)

    def whole(self, usage: Usage) -> bytes:
        """The answer that is no stream."""
        request, names = self._request, self._names
        return encode(
            {
                "id": names.id,
                "object": "chat.completion",
                "created": names.created,
                "model": names.model,
                "choices": [self._choice(i, c) for i, c in enumerate(self._choices)],
                "service_tier": None,
                "system_fingerprint": names.fingerprint,
                "usage": usage.whole(),
                "prompt_logprobs": self._prompt_logprobs,
                "prompt_token_ids": self._prompt.tokens if request.return_token_ids else None,
                "prompt_text": self._prompt.text if request.return_prompt_text else None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def _wants_every_token(self) -> bool:
        return self._logprobs is not None or self._request.return_token_ids

    def _delta(self, index: int, step: Step) -> bytes | None:
        piece = step.piece
        if piece.kind is Kind.THOUGHT:
            return b'{"reasoning":' + encode(step.text) + b"}"
        if piece.kind is Kind.TEXT:
            return b'{"content":' + encode(step.text) + b"}"
        if piece.kind is Kind.CONTROL:
            if step.text or (step.finish is not None and not self._request.parsed_tools):
                # With no tool parser the end-of-text token is an empty piece of text.
                return b'{"content":' + encode(step.text) + b"}"
            return None
        if piece.call > 0 and self._request.single_call:
            return None
        call: Json = {"index": piece.call, "function": {"arguments": step.text}}
        if piece.kind is Kind.CALL:
            call = {
                "id": self._call_id(index, piece.call),
                "type": "function",
                "index": piece.call,
                "function": {"name": step.text},
            }
        return b'{"content":null,"tool_calls":[' + encode(call) + b"]}"

    def _finish_reason(self, choice: Choice, finish: Finish) -> str:
        request = self._request
        if finish is Finish.STOP and choice.calls and not request.named_tool:
            return "tool_calls"
        return finish.value

    def _logprobs_of(self, sequence: Sequence, step: Step) -> bytes:
        if self._logprobs is None:
            return b"null"
        entry = self._logprobs.chat(step.piece.token_id, len(sequence.produced) - 1)
        return encode({"content": [entry]})

    def _usage(self, sequence: Sequence | None) -> bytes:
        if not self._request.continuous_usage:
            return b""
        produced = len(sequence.produced) if sequence is not None else 0
        prompt = len(self._prompt.tokens)
        thoughts = b"null"
        if self._request.task.think:
            count = self._choices[sequence.index].reasoning_tokens if sequence is not None else 0
            thoughts = b'{"reasoning_tokens":%d}' % count
        return (
            b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
            b'"completion_tokens_details":%b}' % (prompt, prompt + produced, produced, thoughts)
        )

    def _choice(self, index: int, choice: Choice) -> Json:
        request = self._request
        logprobs = None
        if self._logprobs is not None:
            ids = enumerate(choice.token_ids)
            logprobs = {"content": [self._logprobs.chat(i, place) for place, i in ids]}
        return {
            "index": index,
            "message": self._message(index, choice),
            "logprobs": logprobs,
            "finish_reason": self._finish_reason(choice, choice.finish or Finish.STOP),
            "stop_reason": choice.stop_reason,
            "token_ids": choice.token_ids if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _message(self, index: int, choice: Choice) -> Json:
        request = self._request
        content: str | None = "".join(choice.text)
        thoughts = "".join(choice.thoughts) or None
        if not content and (thoughts or choice.calls):
            content = "" if request.named_tool or request.required_tool else None
        if request.echo:
            content = request.echo + (content or "")
        message: Json = {
            "role": request.role,
            "content": content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        calls = choice.calls[:1] if request.single_call else choice.calls
        if calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(index, number),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for number, (name, arguments) in enumerate(calls)
            ]
        message["reasoning"] = thoughts
        return message
