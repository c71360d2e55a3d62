"""What the events of sound mean, in both directions; and usage as all surfaces write it."""

from __future__ import annotations

import json

import pytest

from gateway.relay.formats import OpenAIFormat, Reading, SpeechFormat, TranscriptionFormat
from gateway.relay.formats.usage import usage_of
from gateway.relay.observer import StreamObserver
from gateway.terms import Usage
from tests.support.samples import SPOKEN, compact, heard_events

TRANSCRIPTION = TranscriptionFormat()
SPEECH = SpeechFormat()


def event(**fields: object) -> bytes:
    return b"data: " + compact(fields) + b"\n\n"


# --- transcriptions ---


@pytest.mark.parametrize(("text", "token"), [("x", True), ("", False), (None, False)])
def test_vllm_transcribes_in_deltas(text: str | None, token: bool) -> None:
    """As chat does, without an index."""
    assert TRANSCRIPTION.read(event(choices=[{"delta": {"content": text}}])) == Reading(token=token)


def test_openai_transcribes_in_events_of_its_own() -> None:
    """`transcript.text.delta` and `transcript.text.done`, which ends, and has the usage."""
    delta = event(type="transcript.text.delta", delta="x", logprobs=[])
    assert TRANSCRIPTION.read(delta) == Reading(token=True)
    assert TRANSCRIPTION.read(event(type="transcript.text.delta", delta="")) == Reading()
    assert TRANSCRIPTION.read(event(type="transcript.text.segment", text="x")) == Reading()
    usage = {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
        "output_tokens": 45,
        "total_tokens": 59,
    }
    done = event(type="transcript.text.done", text="x", usage=usage)
    assert TRANSCRIPTION.read(done) == Reading(end=True, usage=Usage(14, 45))
    assert TRANSCRIPTION.read(event(type="transcript.text.done", text="x")) == Reading(end=True)


def test_a_text_about_transcripts_is_a_text() -> None:
    """What is said may be anything."""
    said = event(choices=[{"delta": {"content": '"transcript.text.done"'}}])
    assert TRANSCRIPTION.read(said) == Reading(token=True)


def test_an_event_of_openais_that_cannot_be_read_has_no_tokens() -> None:
    """It goes down as it is."""
    broken = b'data: {"type":"transcript.text.delta","delta":7}\n\n'
    assert TRANSCRIPTION.read(broken) == Reading()


@pytest.mark.parametrize("kind", ["transcription", "translation"])
def test_a_whole_transcription_is_counted(kind: str) -> None:
    """Token events, usage and `[DONE]`."""
    observer = StreamObserver(TRANSCRIPTION, hide_usage=False, max_event_bytes=2**20)
    for each in heard_events(kind):
        assert observer.feed(each) == each
    assert (observer.token_events, observer.usage, observer.ended) == (3, Usage(204, 6), True)


def test_seconds_are_no_tokens() -> None:
    """vLLM bills whole transcriptions by duration."""
    body = b'{"text":"ine","usage":{"type":"duration","seconds":2}}'
    assert TRANSCRIPTION.usage_of(body) == Usage(0, 0, 0)


# --- speech ---


def test_speech_comes_in_events_where_it_was_asked_for() -> None:
    """`stream_format: sse`: each piece of sound is a token event; the last has the usage."""
    readings = [SPEECH.read(each) for each in SPOKEN]
    assert readings == [
        Reading(token=True),
        Reading(token=True),
        Reading(end=True, usage=Usage(14, 101)),
    ]
    assert SPEECH.read(event(type="speech.audio.done")) == Reading(end=True)


def test_speech_that_is_refused_is_told_as_everywhere() -> None:
    """OpenAI's error event."""
    told = b'{"error":{"message":"no","code":400}}'
    assert SPEECH.read(b"data: " + told + b"\n\n") == Reading(error=told, error_status=400)


def test_sound_has_no_usage() -> None:
    """It is not JSON."""
    assert SPEECH.usage_of(b"RIFF\x00\xff\xfe") is None


@pytest.mark.parametrize("format_", [TRANSCRIPTION, SPEECH])
def test_a_mark_ends_with_the_quote_that_opens_the_text(format_: OpenAIFormat) -> None:
    """The observer looks at the byte after it."""
    assert all(mark.endswith(b':"') for mark in format_.token_marks)


# --- usage ---


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, Usage(7, 3)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}, Usage(7, 0, 5)),
        ({"prompt_tokens": 29, "total_tokens": 29}, Usage(29)),
        ({"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, Usage(7, 3)),
        (
            {
                "input_tokens": 117,
                "input_tokens_details": {"cached_tokens": 96, "cache_write_tokens": 4},
                "output_tokens": 3,
            },
            Usage(117, 3, 96),
        ),
        (
            {
                "input_tokens": 21,
                "cache_read_input_tokens": 96,
                "cache_creation_input_tokens": 5,
                "output_tokens": 3,
            },
            Usage(122, 3, 96),
        ),
        ({"input_tokens": 0, "cache_read_input_tokens": 96}, Usage(96, 0, 96)),
        ({"input_tokens": 21, "cache_read_input_tokens": None}, Usage(21)),
        ({}, Usage()),
    ],
)
def test_usage_is_read_in_every_surfaces_words(usage: dict[str, object], expected: Usage) -> None:
    """The prompt is what the engine worked on, cached or not."""
    assert usage_of(compact({"usage": usage})) == expected


def test_cohere_tells_usage_as_what_is_billed() -> None:
    """`/v2/embed`, whole and in the last bytes of a large answer."""
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 9, "image_tokens": 0}}
    body = compact({"embeddings": {"float": [[0.25]]}, "meta": meta})
    assert usage_of(body) == Usage(9)
    assert usage_of(body[10:]) == Usage(9)
    assert usage_of(compact({"meta": {"api_version": {"version": "2"}}})) is None
    assert usage_of(b'{"meta":null}') is None


def test_usage_of_bare_vectors_stands_in_a_header() -> None:
    """The `metadata` of `encoding_format: bytes` is JSON as any other."""
    header = json.dumps({"data": [{"index": 0}], "usage": {"prompt_tokens": 6, "total_tokens": 6}})
    assert usage_of(header.encode()) == Usage(6)
    assert usage_of(b"") is None
    assert usage_of(b"v1; q=0.5") is None


def test_what_was_told_earlier_fills_what_is_missing() -> None:
    """And never takes the place of what was told last."""
    assert Usage(0, 4, 0).after(Usage(122, 1, 96)) == Usage(122, 4, 96)
    assert Usage(122, 4, 96).after(Usage(117)) == Usage(122, 4, 96)
    assert Usage(1, 2, 3).after(None) == Usage(1, 2, 3)
    assert Usage(0, 4, 0, exact=False).after(Usage(122)) == Usage(122, 4, 0, exact=False)
