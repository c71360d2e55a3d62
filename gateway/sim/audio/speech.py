"""``/v1/audio/speech``: text to speech as vLLM-Omni serves it. vLLM itself has no such route.

The voice says each word as a tone. The time to the first word is the engine's time to first token,
the time between two words its time between tokens: with ``--itl`` under 250 ms it speaks faster
than one can listen.
"""

import math

from gateway.sim import schema
from gateway.sim.answers import Kind, Piece, Script
from gateway.sim.audio.sound import Voice, wav_header
from gateway.sim.exchange import VARY, Exchange, Routes
from gateway.sim.machine import Machine
from gateway.sim.run import Run
from gateway.sim.sampling import Sampling
from gateway.sim.schema import bad_request, check_fields
from gateway.sim.sequence import Sequence, Step
from gateway.sim.text import EOS

TYPES = {"wav": b"audio/wav", "pcm": b"audio/pcm"}
"""The formats there are, and their content types."""
_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
_MAX_WORDS = 4096
_FIELDS = {
    "model": schema.STRING,
    "input": schema.STRING,
    "voice": schema.STRING,
    "instructions": schema.STRING,
    "response_format": schema.one_of(*_FORMATS),
    "speed": schema.NUMBER,
    "stream": schema.BOOLEAN,
    "stream_format": schema.one_of("audio", "sse"),
}


class Speech:
    """Raw audio, as it is made."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._voice = Voice()

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {"/v1/audio/speech": {"POST": self._speak}}

    def _speak(self, exchange: Exchange) -> None:
        machine = self._machine
        values = check_fields(exchange.body(), _FIELDS, ("input",))
        machine.models.check(values.get("model"))
        words = values["input"].split()
        form, speed = values.get("response_format", "wav"), values.get("speed", 1.0)
        if form not in TYPES:
            text = f"response_format {form!r} is not simulated; use {' or '.join(TYPES)}."
            raise bad_request(text, "response_format")
        if values.get("stream_format") == "sse":
            raise bad_request("stream_format 'sse' is not simulated; use audio.", "stream_format")
        if not math.isfinite(speed) or not 0.25 <= speed <= 4.0:
            raise bad_request("speed must be between 0.25 and 4.0", "speed", value=speed)
        if not words:
            raise bad_request("Input text cannot be empty", "input")
        if len(words) > _MAX_WORDS:
            raise bad_request(f"Input text is longer than {_MAX_WORDS} words", "input")
        machine.admit(1)
        voice = values.get("voice", "alloy")
        response = exchange.response

        def deliver(sequence: Sequence, step: Step) -> None:
            if step.text:
                if form == "wav" and len(sequence.produced) == 1:
                    response.event(wav_header(None))
                response.event(self._voice.say(step.text, voice, speed))
            if step.finish is not None:
                response.end(b"")

        prompt = machine.reader.prompt(values["input"])
        machine.reader.check_length(prompt, from_text=True)
        run = Run(machine.engine, response, deliver)
        script = [Piece(0, word, Kind.TEXT) for word in words[:-1]]
        # The last word is the last step: nothing comes after it but the end.
        script.append(Piece(EOS, words[-1], Kind.TEXT))
        params = Sampling(max_tokens=len(script))
        run.add(prompt.tokens, params, Script(script, iter(())))
        response.open([(b"content-type", TYPES[form]), VARY])
        run.start()
