"""Forms of ``/v1/audio/transcriptions`` and ``/v1/audio/translations``: checked as vLLM does.

Rules and words: ``entrypoints/speech_to_text`` of vLLM.
"""

from dataclasses import dataclass

from gateway.sim import schema
from gateway.sim.audio.sound import duration_s
from gateway.sim.multipart import Form, Upload
from gateway.sim.schema import (
    ApiError,
    Json,
    bad_request,
    check_fields,
    field_error,
    invalid,
)

MAX_FILE_BYTES = 25 * 1024 * 1024
_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_LANGUAGES = (
    "af", "ar", "hy", "az", "be", "bs", "bg", "ca", "zh", "hr", "cs", "da", "nl", "en", "et",
    "fi", "fr", "gl", "de", "el", "he", "hi", "hu", "is", "id", "it", "ja", "kn", "kk", "ko",
    "lv", "lt", "mk", "ms", "mr", "mi", "ne", "no", "fa", "pl", "pt", "ro", "ru", "sr", "sk",
    "sl", "es", "sw", "sv", "tl", "ta", "th", "tr", "uk", "ur", "vi", "cy",
)  # fmt: skip
_FIELDS = {
    "model": schema.STRING,
    "language": schema.STRING,
    "prompt": schema.STRING,
    "response_format": schema.one_of(*_FORMATS),
    "stream": schema.BOOLEAN,
    "stream_include_usage": schema.BOOLEAN,
    "stream_continuous_usage_stats": schema.BOOLEAN,
    "to_language": schema.STRING,
    "use_beam_search": schema.BOOLEAN,
    "temperature": schema.NUMBER,
    "top_p": schema.NUMBER,
    "top_k": schema.INTEGER,
    "min_p": schema.NUMBER,
    "seed": schema.INTEGER,
    "frequency_penalty": schema.NUMBER,
    "repetition_penalty": schema.NUMBER,
    "presence_penalty": schema.NUMBER,
    "max_completion_tokens": schema.INTEGER,
}


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """One form."""

    values: Json
    upload: Upload
    duration_s: float = 0.0


def read(form: Form) -> AudioRequest:
    """Types and rules between fields. Raises ``ApiError``."""
    given = dict(form.fields)
    if "file" in given:
        text = "Expected 'file' to be a file-like object, not 'str'."
        raise ApiError(422, "Unprocessable Entity", text)
    for name in ("stream_include_usage", "stream_continuous_usage_stats"):
        if given.get(name) and not given.get("stream"):
            raise bad_request("Stream options can only be defined when `stream=True`.", name)
    upload = form.file("file")
    if upload is None:
        raise invalid([field_error("missing", "body.file", "Field required", given)])
    values = check_fields(given, _FIELDS)
    if upload.size > MAX_FILE_BYTES:
        size = upload.size / (1024 * 1024)
        raise bad_request("Maximum file size exceeded", "audio_filesize_mb", value=size)
    return AudioRequest(values, upload)


def check(request: AudioRequest) -> AudioRequest:
    """Once the model is known: format, language, audio. Raises ``ApiError``."""
    values = request.values
    form = values.get("response_format", "json")
    if values.get("stream") and values.get("use_beam_search"):
        raise _refused("Streaming is not currently supported with beam search")
    if form in ("srt", "vtt"):
        raise _refused(
            "Currently only support response_format: "
            "`text`, `json`, `verbose_json` or `diarized_json`"
        )
    if form == "verbose_json" and values.get("stream"):
        raise _refused(f"{form} format doesn't support streaming case")
    for name in ("language", "to_language"):
        language = values.get(name)
        if language and language not in _LANGUAGES:
            listed = list(_LANGUAGES)
            raise _refused(f"Unsupported language: {language!r}.  Must be one of {listed}.")
    length = duration_s(request.upload)
    if length is None:
        raise _refused(
            "Invalid or corrupted audio data. Ensure the input is a valid audio or video file "
            "(e.g. a complete WAV, MP3, or MP4)."
        )
    return AudioRequest(values, request.upload, length)


def _refused(text: str) -> ApiError:
    return ApiError(400, "BadRequestError", text)
