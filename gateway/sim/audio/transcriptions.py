"""``/v1/audio/transcriptions`` and ``/v1/audio/translations``.

The transcript is always the same text, as much of it as fits into the length of the audio at
``WORDS_PER_S``; it comes through the engine, token by token.
"""

import math
import zlib
from itertools import cycle, islice

from gateway.sim.answers import Kind, Piece, Script
from gateway.sim.audio.request import AudioRequest, check, read
from gateway.sim.exchange import Exchange, Routes
from gateway.sim.machine import Machine
from gateway.sim.run import Run
from gateway.sim.sampling import sampling
from gateway.sim.schema import Json
from gateway.sim.sequence import Sequence, Step
from gateway.sim.text import EOS, SENTENCES
from gateway.sim.wire import DONE, encode, event

WORDS_PER_S = 2.5
_TOKENS_PER_S = 50
"""Whisper makes 1,500 of every 30 seconds."""
_HEAD_TOKENS = 4
"""``<|startoftranscript|><|en|><|transcribe|><|notimestamps|>``"""


def transcript(duration_s: float) -> list[str]:
    """The words that are said in so much time, each with its leading space but the first."""
    count = max(1, math.ceil(duration_s * WORDS_PER_S))
    words = islice(cycle(word for line in SENTENCES for word in line.split()), count)
    return [word if number == 0 else f" {word}" for number, word in enumerate(words)]


class Transcriptions:
    """Speech to text, in the speaker's language or in English."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/audio/transcriptions": {"POST": lambda e: self._start(e, "transcribe")},
            "/v1/audio/translations": {"POST": lambda e: self._start(e, "translate")},
        }

    def _start(self, exchange: Exchange, task: str) -> None:
        machine, request = self._machine, read(exchange.form())
        machine.models.check(request.values.get("model"))
        machine.admit(1)
        request = check(request)
        values = request.values
        model = values.get("model") or machine.models.base
        name = f"{task}-{machine.name(exchange.request)}"
        room = machine.options.max_model_len
        limit = values.get("max_completion_tokens")
        params = sampling(values, room if limit is None else min(limit, room))
        answer = _Answer(exchange, request, task, name, int(machine.now()), model)
        run = answer.run = Run(machine.engine, exchange.response, answer.deliver)
        # The digest stands for the sound: the same audio finds itself in the cache.
        sound = [int(request.upload.digest[n : n + 4], 16) for n in range(0, 16, 4)]
        prompt = sound[:_HEAD_TOKENS]
        words = transcript(request.duration_s)
        tokens = [machine.tokenizer.encode(word)[0] for word in words]
        script = [Piece(t, w, Kind.TEXT) for t, w in zip(tokens, words, strict=True)]
        run.add(prompt, params, Script([*script, Piece(EOS, "", Kind.CONTROL)], iter(())))
        if values.get("stream"):
            exchange.response.open()
        run.start()


class _Answer:
    """One transcript on its way out."""

    def __init__(
        self,
        exchange: Exchange,
        request: AudioRequest,
        task: str,
        name: str,
        created: int,
        model: str,
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._task = task
        self.run: Run
        kind = "transcription.chunk" if task == "transcribe" else "translation.chunk"
        self._start = (
            b'{"id":' + encode(name) + b',"object":' + encode(kind) + b',"created":%d' % created
            + b',"model":' + encode(model) + b',"choices":['
        )  # fmt: skip
        self._pieces: list[Piece] = []

    def deliver(self, sequence: Sequence, step: Step) -> None:
        """One token."""
        values, response = self._request.values, self._exchange.response
        if step.text:
            self._pieces.append(step.piece)
        if not values.get("stream"):
            if step.finish is not None:
                self._exchange.send(200, self._whole())
            return
        choice: Json = {"delta": {"content": step.text}}
        if step.finish is not None:
            choice |= {"finish_reason": step.finish.value, "stop_reason": step.stop_reason}
        line = self._start + encode(choice) + b"]"
        fault = response.fault
        usage = values.get("stream_include_usage")
        if usage and values.get("stream_continuous_usage_stats"):
            line += b',"usage":' + encode(self._usage(sequence))
        response.event(event(line + b"}"))
        if step.finish is None:
            return
        if usage and not (fault is not None and "no-usage" in fault):
            last = self._start + b'],"usage":' + encode(self._usage(sequence)) + b"}"
            response.event(event(last))
        response.end(DONE)

    def _usage(self, sequence: Sequence) -> Json:
        fault = self._exchange.response.fault
        prompt = _HEAD_TOKENS + math.ceil(self._request.duration_s * _TOKENS_PER_S)
        said = len(sequence.produced)
        if fault is not None and "zero-usage" in fault:
            prompt = said = 0
        return {"prompt_tokens": prompt, "total_tokens": prompt + said, "completion_tokens": said}

    def _whole(self) -> Json:
        values, length = self._request.values, self._request.duration_s
        text = "".join(piece.text for piece in self._pieces)
        if values.get("response_format") == "verbose_json":
            language = values.get("language", "en")
            value = {"duration": length, "language": language, "text": text}
            return {**value, "segments": self._segments(), "words": None}
        # vLLM answers `text` with JSON too.
        if self._task == "translate":
            return {"text": text}
        return {"text": text, "usage": {"type": "duration", "seconds": math.ceil(length)}}

    def _segments(self) -> list[Json]:
        """A segment for each sentence, timed by its share of the words."""
        segments: list[Json] = []
        begin, length = 0, self._request.duration_s
        total = len(self._pieces)
        for number, piece in enumerate(self._pieces, 1):
            if not piece.text.endswith((".", "?", "!")) and number < total:
                continue
            pieces = self._pieces[begin:number]
            text = "".join(one.text for one in pieces)
            raw = text.encode()
            segments.append(
                {
                    "id": len(segments),
                    "avg_logprob": -0.25,
                    "compression_ratio": len(raw) / len(zlib.compress(raw)),
                    "end": round(length * number / total, 2),
                    "no_speech_prob": None,
                    "seek": 0,
                    "start": round(length * begin / total, 2),
                    "temperature": float(self._request.values.get("temperature", 0.0)),
                    "text": text,
                    "tokens": [one.token_id for one in pieces],
                }
            )
            begin = number
        return segments
