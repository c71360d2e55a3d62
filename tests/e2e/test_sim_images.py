"""Images with OpenAI's SDK, in front of simulators: vLLM itself makes none."""

import base64

import openai
import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def picture(client: openai.OpenAI, prompt: str) -> bytes:
    """One picture of the prompt."""
    answer = client.images.generate(model="tiny", prompt=prompt, response_format="b64_json")
    assert answer.data is not None
    [image] = answer.data
    assert image.b64_json is not None
    return base64.b64decode(image.b64_json)


def test_generated(sim_client: openai.OpenAI) -> None:
    """A prompt makes a picture, another prompt another."""
    fox, dog = picture(sim_client, "A fox"), picture(sim_client, "A dog")
    assert fox.startswith(PNG)
    assert dog.startswith(PNG)
    assert fox != dog


def test_several(sim_client: openai.OpenAI) -> None:
    """A request may ask for several."""
    answer = sim_client.images.generate(model="tiny", prompt="A fox", n=3, size="256x256")
    assert answer.data is not None
    assert len({image.b64_json for image in answer.data}) == 3


def test_edited(sim_client: openai.OpenAI) -> None:
    """A picture goes up as a form, and comes back another."""
    fox = picture(sim_client, "A fox")
    answer = sim_client.images.edit(model="tiny", image=("fox.png", fox), prompt="A dog")
    assert answer.data is not None
    [image] = answer.data
    assert image.b64_json is not None
    assert base64.b64decode(image.b64_json).startswith(PNG)


def test_errors(sim_client: openai.OpenAI) -> None:
    """Errors of the gateway, and of the worker, raise what they are."""
    with pytest.raises(openai.NotFoundError):
        sim_client.images.generate(model="nope", prompt="A fox")
    with pytest.raises(openai.NotFoundError):
        sim_client.images.edit(model="nope", image=("fox.png", PNG), prompt="A dog")
    with pytest.raises(openai.BadRequestError):
        sim_client.images.generate(model="tiny", prompt="A fox", n=99)
