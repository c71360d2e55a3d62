"""What the bytes of each surface's stream mean. Pure.

A format knows which events carry tokens, where usage stands, what ends the stream, and how a
failure is told in it (docs: README, "Metrics"; vLLM 0.32, entrypoints). One module per format.
"""

from gateway.relay.formats.messages import MessagesFormat
from gateway.relay.formats.openai import OpenAIFormat, SpeechFormat, TranscriptionFormat
from gateway.relay.formats.reading import Reading, StreamFormat
from gateway.relay.formats.responses import ResponsesFormat
from gateway.relay.formats.usage import error_status

__all__ = [
    "MessagesFormat",
    "OpenAIFormat",
    "Reading",
    "ResponsesFormat",
    "SpeechFormat",
    "StreamFormat",
    "TranscriptionFormat",
    "error_status",
]
