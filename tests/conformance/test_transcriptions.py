"""Transcriptions and translations: a form with a file goes up, JSON or a stream comes down.

The model writes at random, and by chance nothing at all: what it writes is not looked at.
"""

import io
import json
import math
import wave
from typing import Any

import httpx
import pytest

from tests.conformance.answers import Matches, OneOf, differences
from tests.conformance.bodies import MADE_UP_ID
from tests.conformance.targets import Target
from tests.conformance.test_errors import REFUSED, UNDECODED, assert_refused, error

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
BOTH = pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
NAMES = {TRANSCRIPTIONS: "transcription", TRANSLATIONS: "translation"}
PREFIXES = {TRANSCRIPTIONS: "transcribe", TRANSLATIONS: "translate"}
SECONDS = 2
RATE_HZ = 16_000
TOKENS = 6
USAGE = {"prompt_tokens": int, "total_tokens": int, "completion_tokens": int}


def tone(seconds: int = SECONDS) -> bytes:
    """A WAV file with a tone of 440 Hz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE_HZ)
        step = 2 * math.pi * 440 / RATE_HZ
        levels = (int(8000 * math.sin(step * at)) for at in range(seconds * RATE_HZ))
        sound.writeframes(b"".join(level.to_bytes(2, "little", signed=True) for level in levels))
    return file.getvalue()


def post(
    target: Target,
    path: str = TRANSCRIPTIONS,
    file: bytes | None = None,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> httpx.Response:
    """POST the form that every case sends, unless `fields` differ."""
    form = {"model": "tiny", "language": "en", "temperature": "1", "seed": "1"}
    form |= {"max_completion_tokens": str(TOKENS), **fields}
    files = {"file": ("tone.wav", tone() if file is None else file, "audio/wav")}
    return target.client.post(path, data=form, files=files, headers=headers)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that ended well."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def event(path: str, choices: list[dict[str, Any]], **usage: Any) -> dict[str, Any]:
    """What an event looks like."""
    return {
        "id": Matches(f"{PREFIXES[path]}-{MADE_UP_ID}"),
        "object": f"{NAMES[path]}.chunk",
        "created": int,
        "model": "tiny",
        "choices": choices,
        **usage,
    }


PIECE = {"delta": {"content": str}}
LAST_PIECE = {**PIECE, "finish_reason": OneOf("length", "stop"), "stop_reason": None}


def test_transcription_has_text_and_seconds(transcribing_target: Target) -> None:
    """The usage of a transcription is how long the sound is."""
    answer = post(transcribing_target)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    expected = {"text": str, "usage": {"type": "duration", "seconds": SECONDS}}
    assert differences(expected, answer.json()) == []


def test_translation_has_text_alone(transcribing_target: Target) -> None:
    """A translation has no usage."""
    answer = post(transcribing_target, TRANSLATIONS)
    assert answer.status_code == 200
    assert differences({"text": str}, answer.json()) == []


@BOTH
def test_stream(transcribing_target: Target, path: str) -> None:
    """A stream has pieces of text from its first event on, and the reason to finish in its last."""
    found = events(post(transcribing_target, path, stream="true"))
    pieces = [event(path, [PIECE])] * (len(found) - 1)
    assert differences([*pieces, event(path, [LAST_PIECE])], found) == []


@BOTH
def test_usage_when_asked(transcribing_target: Target, path: str) -> None:
    """A field of the form asks for usage, in an event of its own at the end; sound has tokens."""
    asked: dict[str, Any] = {"stream": "true", "stream_include_usage": "true"}
    found = events(post(transcribing_target, path, **asked))
    assert differences(event(path, [], usage=USAGE), found[-1]) == []
    used = found[-1]["usage"]
    assert used["completion_tokens"] <= TOKENS
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert all("usage" not in each and each["choices"] for each in found[:-1])


def test_usage_so_far_in_every_event(transcribing_target: Target) -> None:
    """With `stream_continuous_usage_stats` each event says what was used so far."""
    asked: dict[str, Any] = {
        "stream_include_usage": "true",
        "stream_continuous_usage_stats": "true",
    }
    found = events(post(transcribing_target, stream="true", **asked))
    assert differences([USAGE] * len(found), [each["usage"] for each in found]) == []
    counts = [each["usage"]["completion_tokens"] for each in found]
    assert counts == sorted(counts)


def test_callers_request_id(transcribing_target: Target) -> None:
    """The id of a stream is made of the client's `X-Request-Id`."""
    headers = {"X-Request-Id": "abc"}
    found = events(post(transcribing_target, headers=headers, stream="true"))
    assert {each["id"] for each in found} == {"transcribe-abc"}


def test_large_file(transcribing_target: Target) -> None:
    """A file of a megabyte arrives whole."""
    answer = post(transcribing_target, file=tone(35))
    assert answer.json()["usage"]["seconds"] == 35


@BOTH
def test_stream_of_a_large_file(transcribing_target: Target, path: str) -> None:
    """vLLM hears a long sound in parts of 30 s: each part has its own reason to finish.

    The simulator hears it all at once. The stream goes on after a reason to finish.
    """
    found = events(post(transcribing_target, path, file=tone(35), stream="true"))
    ends = [each for each in found if "finish_reason" in each["choices"][0]]
    assert len(ends) == (1 if transcribing_target.name.endswith("sim") else 2)
    assert found[-1] == ends[-1]


@BOTH
@pytest.mark.parametrize("stream", ["false", "true"], ids=["whole", "stream"])
def test_unknown_model(transcribing_target: Target, path: str, stream: str) -> None:
    """A model that nobody serves is a 404: the gateway's own, where there is one."""
    answer = post(transcribing_target, path, model="nope", stream=stream)
    if transcribing_target.is_gateway:
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
    else:
        assert_refused(answer, 404, error("NotFoundError", "model", 404))


@pytest.mark.parametrize("stream", ["false", "true"], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": "-1"}, "temperature"), ({"response_format": "srt"}, None)],
    ids=["temperature", "format"],
)
def test_wrong_request(
    transcribing_target: Target, fields: dict[str, Any], param: str | None, stream: str
) -> None:
    """What vLLM refuses is a 400, before any stream."""
    answer = post(transcribing_target, **fields, stream=stream)
    assert_refused(answer, 400, error(REFUSED, param, 400))


def test_usage_without_stream(transcribing_target: Target) -> None:
    """Usage is to be asked for streams only."""
    answer = post(transcribing_target, stream_include_usage="true")
    assert_refused(answer, 400, error(REFUSED, "stream_include_usage", 400))


def test_no_sound(transcribing_target: Target) -> None:
    """A file that is no sound is a 400."""
    answer = post(transcribing_target, file=b"Hello")
    assert_refused(answer, 400, error(REFUSED, None, 400))


def test_no_file(transcribing_target: Target) -> None:
    """A form without a file is a 400."""
    fields = {"model": (None, "tiny"), "language": (None, "en")}
    answer = transcribing_target.client.post(TRANSCRIPTIONS, files=fields)
    assert_refused(answer, 400, error(UNDECODED, "body.file", 400))
