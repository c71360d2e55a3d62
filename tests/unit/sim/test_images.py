"""Images: small pictures that follow from the request."""

import base64
import struct
import zlib
from typing import Any

import openai
import pytest

from gateway.sim import Sim, SimOptions

from .client import ask, connect

PATH = "/v1/images/generations"


def _size(png: bytes) -> tuple[int, int]:
    """Checks every chunk's sum and the number of bytes, gives width and height."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, data, size = 8, b"", (0, 0)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        elif kind == b"IDAT":
            data += body
        at += 12 + length
    assert len(zlib.decompress(data)) == size[1] * (1 + 3 * size[0])
    return size


async def test_openais_client(client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="demo", prompt="The sea", n=2, size="1024x1024")
    assert made.data is not None
    pictures = [base64.b64decode(one.b64_json or "") for one in made.data]
    assert [_size(picture) for picture in pictures] == [(1024, 1024)] * 2
    assert pictures[0] != pictures[1]
    again = await client.images.generate(model="demo", prompt="The sea", size="1024x1024")
    assert again.data is not None
    assert base64.b64decode(again.data[0].b64_json or "") == pictures[0]


async def test_edits_depend_on_the_picture(client: openai.AsyncOpenAI) -> None:
    async def edit(content: bytes) -> bytes:
        made = await client.images.edit(
            model="demo", image=("a.png", content, "image/png"), prompt="Bluer"
        )
        assert made.data is not None
        return base64.b64decode(made.data[0].b64_json or "")

    one, same, other = await edit(b"one"), await edit(b"one"), await edit(b"other")
    assert one == same != other
    assert _size(one) == (64, 64)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "9999x1"}, "size"),
        ({"size": "big"}, "size"),
        ({"response_format": "url"}, "response_format"),
        ({"prompt": None}, "body.prompt"),
    ],
)
async def test_refusals(sim: Sim, more: dict[str, Any], param: str) -> None:
    answer = await ask(sim, PATH, {"model": "demo", "prompt": "x", **more})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_an_edit_needs_a_picture(sim: Sim) -> None:
    answer = await ask(sim, "/v1/images/edits", {"prompt": "x"})
    assert (answer.status, answer.json["error"]["param"]) == (400, "body.image")


async def test_leaving_aborts_all_of_them() -> None:
    async with Sim(SimOptions(ttft_s=3600)) as sim:
        async with connect(sim) as client:
            client.send(PATH, {"prompt": "x", "n": 3})
            await sim.wait_for(lambda: sim.running == 3)
        await sim.wait_for(lambda: (sim.running, sim.aborted) == (0, 1))
