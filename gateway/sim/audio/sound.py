"""Sound as bytes: how long an upload is, and what the pretended voice says.

WAV: RIFF, 16-bit PCM, one channel. A stream does not know its length, so its header carries the
largest sizes there are, as servers that stream WAV do.
"""

import math
import struct
import sys
from array import array
from hashlib import blake2b

from gateway.sim.multipart import Upload

RATE = 24_000
"""Samples per second of what is spoken."""
WORD_S = 0.25
_BYTES_PER_S = 16_000
"""How much of an unknown format is a second: 128 kbit/s."""
_MAGIC = (b"RIFF", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"fLaC", b"OggS", b"\x1aE\xdf")
_UNKNOWN_SIZE = 0xFFFFFFFF
_PITCHES = 25
"""Two octaves of semitones, from 220 Hz."""
_KEPT_TONES = 256


def duration_s(upload: Upload) -> float | None:
    """Seconds of audio: from the header of a WAV, else from the size. None: it is no audio."""
    start = upload.start
    if start.startswith(b"RIFF") and start[8:12] == b"WAVE":
        return _wav_duration_s(start, upload.size)
    if start.startswith(_MAGIC) or start[4:8] == b"ftyp":
        return upload.size / _BYTES_PER_S
    return None


def _wav_duration_s(start: bytes, size: int) -> float | None:
    at, bytes_per_s = 12, 0
    while at + 8 <= len(start):
        name, length = start[at : at + 4], int.from_bytes(start[at + 4 : at + 8], "little")
        if name == b"fmt " and at + 20 <= len(start):
            bytes_per_s = int.from_bytes(start[at + 16 : at + 20], "little")
        elif name == b"data":
            # A recording that was streamed does not know its length.
            length = min(length, size - at - 8)
            return length / bytes_per_s if bytes_per_s and length >= 0 else None
        at += 8 + length + length % 2
    return None


def wav_header(data_bytes: int | None) -> bytes:
    """The 44 bytes before the samples. None: nobody knows how many there will be."""
    size = _UNKNOWN_SIZE if data_bytes is None else data_bytes
    riff = _UNKNOWN_SIZE if data_bytes is None else data_bytes + 36
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, RATE,
                       RATE * 2, 2, 16)  # fmt: skip
    return head + struct.pack("<4sI", b"data", size)


class Voice:
    """Says words as tones: the pitch from the word and the voice, the length from the speed."""

    def __init__(self) -> None:
        self._tones: dict[tuple[int, int], bytes] = {}

    def say(self, word: str, name: str, speed: float) -> bytes:
        """16-bit little-endian samples, softened at both ends so that nothing clicks."""
        digest = blake2b(f"{name}/{word}".encode(), digest_size=2).digest()
        pitch = int.from_bytes(digest) % _PITCHES
        count = int(RATE * WORD_S / speed)
        tone = self._tones.get((pitch, count))
        if tone is None:
            if len(self._tones) >= _KEPT_TONES:
                self._tones.clear()
            tone = self._tones[pitch, count] = _tone(220.0 * 2 ** (pitch / 12), count)
        return tone


def _tone(hertz: float, count: int) -> bytes:
    fade = min(240, count // 4) or 1
    turn = 2 * math.pi * hertz / RATE
    samples = array("h", bytes(2 * count))
    for index in range(count):
        volume = min(1.0, index / fade, (count - 1 - index) / fade)
        samples[index] = int(8_000 * volume * math.sin(turn * index))
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
