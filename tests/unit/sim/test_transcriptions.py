"""Speech to text. Shapes are those of a running vLLM 0.32.0 with Whisper."""

import hashlib
import io
import json
import wave
from typing import Any

import openai
import pytest

from gateway.sim import Sim, SimOptions

from .client import Answer, ask, connect

TRANSCRIBE = "/v1/audio/transcriptions"
TRANSLATE = "/v1/audio/translations"
_TYPE = {"content-type": "multipart/form-data; boundary=xy", "x-request-id": "abc"}


def _wav(seconds: float, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\x00\x01" * int(seconds * rate))
    return out.getvalue()


def _form(audio: bytes | None = None, **fields: str) -> bytes:
    parts = [
        f'--xy\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--xy\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    sound = _wav(2) if audio is None else audio
    return b"".join(parts) + head + sound + b"\r\n--xy--\r\n"


async def _ask(sim: Sim, path: str = TRANSCRIBE, audio: bytes | None = None, **f: str) -> Answer:
    return await ask(sim, path, _form(audio, **f), headers=_TYPE)


async def test_openais_client(client: openai.AsyncOpenAI) -> None:
    file = ("a.wav", _wav(2), "audio/wav")
    whole = await client.audio.transcriptions.create(model="demo", file=file)
    text = "The gateway keeps every byte"
    assert whole.text == text
    with pytest.warns(
        DeprecationWarning, match="deprecated"
    ):  # the client's own, for the whole method
        translated = await client.audio.translations.create(model="demo", file=file)
    assert translated.text == text
    verbose = await client.audio.transcriptions.create(
        model="demo", file=("b.wav", _wav(8)), response_format="verbose_json"
    )
    assert verbose.duration == 8.0
    assert verbose.segments is not None
    assert "".join(segment.text for segment in verbose.segments) == verbose.text
    assert verbose.segments[-1].end == 8.0


async def test_openais_client_reads_the_stream(client: openai.AsyncOpenAI) -> None:
    """vLLM's chunks are not OpenAI's events: they come through as they are."""
    stream = await client.audio.transcriptions.create(
        model="demo", file=("a.wav", _wav(2)), stream=True
    )
    text = ""
    async for chunk in stream:
        more: Any = chunk.model_extra
        text += more["choices"][0]["delta"]["content"]
    assert text == "The gateway keeps every byte"


async def test_whole_answers_have_vllm_bytes(sim: Sim) -> None:
    text = "The gateway keeps every byte"
    for form in ("json", "text"):
        answer = await _ask(sim, response_format=form)
        expected = f'{{"text":"{text}","usage":{{"type":"duration","seconds":2}}}}'
        assert answer.body.decode() == expected
    translated = await _ask(sim, TRANSLATE)
    assert translated.body.decode() == f'{{"text":"{text}"}}'


async def test_stream_has_vllm_bytes() -> None:
    async with Sim(SimOptions(frozen_time=1.0)) as sim:
        answer = await _ask(sim, audio=_wav(0.7), stream="true", stream_include_usage="true")
    start = '{"id":"transcribe-abc","object":"transcription.chunk","created":1,"model":"demo",'
    assert answer.data == [
        f'{start}"choices":[{{"delta":{{"content":"The"}}}}]}}',
        f'{start}"choices":[{{"delta":{{"content":" gateway"}}}}]}}',
        (
            f'{start}"choices":[{{"delta":{{"content":""}},"finish_reason":"stop",'
            '"stop_reason":null}]}'
        ),
        (
            f'{start}"choices":[],"usage":{{"prompt_tokens":39,"total_tokens":42,'
            '"completion_tokens":3}}'
        ),
        "[DONE]",
    ]


async def test_continuous_usage_counts_up(sim: Sim) -> None:
    form = _form(
        stream="true",
        max_completion_tokens="2",
        stream_include_usage="true",
        stream_continuous_usage_stats="true",
    )
    answer = await ask(sim, TRANSLATE, form, headers=_TYPE)
    assert [event["usage"]["completion_tokens"] for event in answer.events] == [1, 2, 2]
    assert answer.events[1]["choices"][0]["finish_reason"] == "length"
    assert answer.events[0]["object"] == "translation.chunk"
    assert answer.events[0]["id"] == "translate-abc"


@pytest.mark.parametrize(
    ("audio", "seconds"),
    [
        (_wav(3.2, 8000), 4),
        (b"ID3" + bytes(32_000), 3),
        (b"fLaC" + bytes(15_000), 1),
    ],
)
async def test_length_of_the_audio(sim: Sim, audio: bytes, seconds: int) -> None:
    answer = await _ask(sim, audio=audio)
    assert answer.json["usage"] == {"type": "duration", "seconds": seconds}


_CORRUPT = (
    "Invalid or corrupted audio data. Ensure the input is a valid audio or video file "
    "(e.g. a complete WAV, MP3, or MP4)."
)
_FORMATS = (
    "Currently only support response_format: `text`, `json`, `verbose_json` or `diarized_json`"
)


@pytest.mark.parametrize(
    ("fields", "audio", "status", "message"),
    [
        ({"response_format": "srt"}, None, 400, _FORMATS),
        ({"response_format": "vtt"}, None, 400, _FORMATS),
        ({}, b"not audio", 400, _CORRUPT),
        ({}, b"", 400, _CORRUPT),
        (
            {"stream_include_usage": "true"},
            None,
            400,
            (
                "Stream options can only be defined when `stream=True`. "
                "(parameter=stream_include_usage)"
            ),
        ),
        (
            {"temperature": "-1"},
            None,
            400,
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        ),
        (
            {"response_format": "verbose_json", "stream": "true"},
            None,
            400,
            "verbose_json format doesn't support streaming case",
        ),
        (
            {"model": "nope"},
            None,
            404,
            "The model `nope` does not exist. Valid aliases: demo.",
        ),
    ],
)
async def test_refusals(
    sim: Sim, fields: dict[str, str], audio: bytes | None, status: int, message: str
) -> None:
    answer = await _ask(sim, audio=audio, **fields)
    assert (answer.status, answer.json["error"]["message"]) == (status, message)


async def test_what_is_no_form(sim: Sim) -> None:
    broken = await ask(sim, TRANSCRIBE, b"--xy\r\n", headers=_TYPE)
    assert (broken.status, broken.body) == (
        400,
        b'{"detail":"There was an error parsing the body"}',
    )
    other = await ask(sim, TRANSCRIBE, {"model": "demo"})
    assert other.json["error"]["param"] == "body.file"


async def test_the_upload_is_recorded_as_it_came(sim: Sim) -> None:
    body = _form(model="demo")
    async with connect(sim) as client:
        client.send(TRANSCRIBE, body, headers=_TYPE)
        assert (await client.answer()).status == 200
        # The next request on the connection is found behind the form.
        client.send("/version")
        assert (await client.answer()).status == 200
    form = sim.requests[0].form
    assert form is not None
    assert (form.size, form.digest) == (len(body), hashlib.sha256(body).hexdigest())
    assert form.value("model") == "demo"
    assert sim.requests[0].body == b""


async def test_too_large_is_told(sim: Sim) -> None:
    answer = await _ask(sim, audio=b"ID3" + bytes(25 * 1024 * 1024))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "audio_filesize_mb"


async def test_leaving_aborts() -> None:
    async with Sim(SimOptions(ttft_s=3600)) as sim:
        async with connect(sim) as client:
            client.send(TRANSCRIBE, _form(stream="true"), headers=_TYPE)
            await sim.wait_for(lambda: sim.running == 1)
        await sim.wait_for(lambda: sim.aborted == 1)


async def test_verbose_segments_follow_one_another(sim: Sim) -> None:
    value = (await _ask(sim, audio=_wav(30), response_format="verbose_json")).json
    assert list(value) == ["duration", "language", "text", "segments", "words"]
    ends = [segment["end"] for segment in value["segments"]]
    starts = [segment["start"] for segment in value["segments"]]
    assert starts == [0.0, *ends[:-1]]
    assert len(ends) > 2
    assert json.dumps(value["words"]) == "null"
