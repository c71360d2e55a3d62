"""Sound in both directions with OpenAI's SDK, in front of simulators.

vLLM itself does not speak (vLLM-Omni and others do), and hears only what `soundfile` reads.
"""

import io
import wave
from typing import Any

import openai
import pytest

from tests.conformance.answers import wait_until
from tests.conformance.samples import total
from tests.conformance.targets import Gateway
from tests.conformance.test_transcriptions import SECONDS, tone

TEXT = "The quick brown fox jumps over the lazy dog"


def test_speech_streamed(sim_client: openai.OpenAI) -> None:
    """Speech comes piece by piece, and the pieces are one sound."""
    with sim_client.audio.speech.with_streaming_response.create(
        model="tiny", voice="alloy", input=TEXT, response_format="wav"
    ) as speech:
        assert speech.headers["content-type"] == "audio/wav"
        pieces = list(speech.iter_bytes())
    with wave.open(io.BytesIO(b"".join(pieces))) as sound:
        assert sound.getnchannels() == 1
    assert len(pieces) > 1
    whole = sim_client.audio.speech.create(
        model="tiny", voice="alloy", input=TEXT, response_format="wav"
    )
    assert whole.content == b"".join(pieces)


def test_speech_errors(sim_client: openai.OpenAI) -> None:
    """What cannot be spoken is an error, and no sound."""
    with pytest.raises(openai.BadRequestError):
        sim_client.audio.speech.create(model="tiny", voice="alloy", input="")
    with pytest.raises(openai.NotFoundError) as caught:
        sim_client.audio.speech.create(model="nope", voice="alloy", input=TEXT)
    assert caught.value.code == "model_not_found"


def test_transcription(sim_client: openai.OpenAI) -> None:
    """A file goes up as a form and comes down as text, whole and streamed."""
    file = ("tone.wav", tone())
    speech = sim_client.audio.transcriptions
    whole = speech.create(model="tiny", file=file)
    assert whole.text
    assert whole.usage is not None
    assert whole.usage.type == "duration"
    assert whole.usage.seconds == SECONDS
    with speech.create(model="tiny", file=file, stream=True) as stream:
        events: list[dict[str, Any]] = [event.to_dict() for event in stream]
    pieces = [event["choices"][0]["delta"]["content"] for event in events]
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


def test_translation(sim_client: openai.OpenAI) -> None:
    """A translation is a text."""
    # OpenAI has deprecated it; vLLM serves it.
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = sim_client.audio.translations.create(model="tiny", file=("tone.wav", tone()))
    assert answer.text


def test_transcription_errors(sim_client: openai.OpenAI) -> None:
    """What is no sound, and a model that nobody has, are errors."""
    with pytest.raises(openai.BadRequestError, match="Invalid or corrupted audio"):
        sim_client.audio.transcriptions.create(model="tiny", file=("tone.wav", b"Hello"))
    with pytest.raises(openai.NotFoundError):
        sim_client.audio.transcriptions.create(model="nope", file=("tone.wav", tone()))


def test_leaving_speech(sim_gateway: Gateway, sim_client: openai.OpenAI) -> None:
    """A listener that leaves is counted as one that left."""
    admin = sim_gateway.admin_url
    name = "vllm_gateway_requests_total"
    left = {"outcome": "client_closed", "endpoint": "speech"}
    before = total(admin, name, **left)
    with sim_client.audio.speech.with_streaming_response.create(
        model="tiny", voice="alloy", input="word " * 4000, response_format="pcm"
    ) as speech:
        next(speech.iter_bytes())
    wait_until(lambda: total(admin, name, **left) == before + 1, "the gateway counts it")
