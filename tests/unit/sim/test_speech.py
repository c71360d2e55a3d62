"""Text to speech: raw audio, a piece per word."""

import io
import struct
import wave
from typing import Any

import openai
import pytest

from gateway.sim import Sim, SimOptions
from gateway.sim.audio.sound import RATE, WORD_S

from .client import ask, connect, faulty

PATH = "/v1/audio/speech"
_WORD_BYTES = int(RATE * WORD_S) * 2


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "input": "Hello there Hello", "voice": "alloy", **more}


async def test_openais_client_streams_it(client: openai.AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model="demo", input="Hello there Hello", voice="alloy", response_format="pcm"
    ) as answer:
        assert answer.headers["content-type"] == "audio/pcm"
        sound = b"".join([piece async for piece in answer.iter_bytes()])
    first, second, third = (sound[n : n + _WORD_BYTES] for n in range(0, 3 * _WORD_BYTES, 12_000))
    assert first == third != second
    assert len(sound) == 3 * _WORD_BYTES
    samples = struct.unpack(f"<{len(first) // 2}h", first)
    assert max(samples) > 7000
    assert samples[0] == samples[-1] == 0


async def test_pieces_are_chunks(sim: Sim) -> None:
    answer = await ask(sim, PATH, _body(response_format="pcm"))
    assert [len(chunk) for chunk in answer.chunks if chunk] == [_WORD_BYTES] * 3
    assert answer.headers["transfer-encoding"] == "chunked"
    assert (answer.ended, sim.finished) == ("complete", 1)


async def test_wav_has_a_header_for_a_stream(sim: Sim) -> None:
    answer = await ask(sim, PATH, _body())
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.body[:4] + answer.body[8:12] == b"RIFFWAVE"
    assert answer.body[4:8] == answer.body[40:44] == b"\xff" * 4
    with wave.open(io.BytesIO(answer.body)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        assert sound.getframerate() == RATE
    pcm = await ask(sim, PATH, _body(response_format="pcm"))
    assert answer.body[44:] == pcm.body


async def test_voice_and_speed_change_the_sound(sim: Sim) -> None:
    sounds = [
        (await ask(sim, PATH, _body(response_format="pcm", **more))).body
        for more in ({}, {"voice": "verse"}, {"speed": 2.0})
    ]
    assert sounds[0] != sounds[1]
    assert (len(sounds[1]), len(sounds[2])) == (len(sounds[0]), len(sounds[0]) // 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"response_format": "mp3"},
            "response_format 'mp3' is not simulated; use wav or pcm. (parameter=response_format)",
        ),
        ({"speed": 9}, "speed must be between 0.25 and 4.0 (parameter=speed, value=9.0)"),
        ({"input": " "}, "Input text cannot be empty (parameter=input)"),
    ],
)
async def test_refusals(sim: Sim, more: dict[str, Any], message: str) -> None:
    answer = await ask(sim, PATH, _body(**more))
    assert (answer.status, answer.json["error"]["message"]) == (400, message)


async def test_unknown_model(sim: Sim) -> None:
    assert (await ask(sim, PATH, _body(model="nope"))).status == 404


async def test_leaving_aborts() -> None:
    async with Sim(SimOptions(itl_s=3600)) as sim:
        async with connect(sim) as client:
            client.send(PATH, _body(response_format="pcm"))
            await client.reader.readexactly(_WORD_BYTES)
            assert sim.running == 1
        await sim.wait_for(lambda: sim.aborted == 1 and sim.running == 0)


@pytest.mark.parametrize(
    ("fault", "end"), [("reset@1", "reset"), ("eof@1", "eof"), ("error@1", "eof")]
)
async def test_audio_can_only_break(sim: Sim, fault: str, end: str) -> None:
    """There is no error event in raw audio."""
    answer = await faulty(sim, fault, _body(response_format="pcm"), PATH)
    assert (answer.status, answer.ended, len(answer.body)) == (200, end, _WORD_BYTES)


async def test_framing_faults_leave_the_sound_alone(sim: Sim) -> None:
    clean = (await ask(sim, PATH, _body(input="Hello"))).body
    for fault in ("newline=crlf,comments", "rechunk=1000", "chunk-ext", "content-length", "http10"):
        answer = await faulty(sim, fault, _body(input="Hello"), PATH)
        assert answer.body == clean, fault
        assert answer.headers["content-type"] == "audio/wav"
