"""How vectors are written: JSON numbers, base64, bytes; ``embed_dtype`` and ``endianness``.

As ``vllm/utils/serial_utils.py``, but for the two 8-bit float types.
"""

import base64
import json
import struct
import sys
from collections.abc import Sequence

from gateway.sim import schema
from gateway.sim.pooling.vectors import Vector
from gateway.sim.schema import Json

FIELDS = {
    "encoding_format": schema.one_of("float", "base64", "bytes", "bytes_only"),
    "embed_dtype": schema.one_of("float32", "float16", "bfloat16"),
    "endianness": schema.one_of("native", "big", "little"),
}


def packed(vector: Vector, dtype: str, endianness: str) -> bytes:
    """The numbers in a row."""
    big = endianness == "big" or (endianness == "native" and sys.byteorder == "big")
    order = ">" if big else "<"
    if dtype == "bfloat16":
        halves = [(int.from_bytes(struct.pack(">f", value)) + 0x8000) >> 16 for value in vector]
        return struct.pack(f"{order}{len(halves)}H", *halves)
    return struct.pack(f"{order}{len(vector)}{'e' if dtype == 'float16' else 'f'}", *vector)


def in_json(vector: Vector, values: Json) -> str | list[float]:
    """A vector in an answer that is JSON, as the request's fields ask for."""
    if values.get("encoding_format") == "base64":
        return base64.b64encode(_packed(vector, values)).decode()
    return vector.tolist()


def as_bytes(vectors: Sequence[Vector], values: Json) -> tuple[list[bytes], list[Json]]:
    """The pieces of an answer that is bytes, and where each stands in it."""
    pieces, places, start = [], [], 0
    for index, vector in enumerate(vectors):
        piece = _packed(vector, values)
        pieces.append(piece)
        places.append(
            {
                "index": index,
                "embed_dtype": values.get("embed_dtype", "float32"),
                "endianness": values.get("endianness", "native"),
                "start": start,
                "end": start + len(piece),
                "shape": [len(vector)],
            }
        )
        start += len(piece)
    return pieces, places


def metadata(value: Json) -> bytes:
    """The header ``metadata``: vLLM puts all of it into one, however long."""
    return json.dumps(value).encode()


def bits(vector: Vector, *, signed: bool) -> list[int]:
    """Cohere's ``binary`` and ``ubinary``: one bit per dimension, the first is the highest."""
    whole = []
    for start in range(0, len(vector), 8):
        byte = 0
        for value in vector[start : start + 8]:
            byte = byte << 1 | (value >= 0)
        whole.append(byte - 128 if signed else byte)
    return whole


def _packed(vector: Vector, values: Json) -> bytes:
    dtype, endianness = values.get("embed_dtype", "float32"), values.get("endianness", "native")
    return packed(vector, dtype, endianness)
