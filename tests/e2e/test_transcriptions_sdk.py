"""Speech to text with OpenAI's SDK, in front of a real engine."""

import openai
import pytest

from tests.conformance.targets import Gateway
from tests.conformance.test_transcriptions import SECONDS, tone

pytestmark = pytest.mark.vllm


def test_whole_and_streamed(transcribing_gateway: Gateway) -> None:
    """A file goes up as a form, and comes down as text or as a stream; a wrong one is an error."""
    with openai.OpenAI(base_url=f"{transcribing_gateway.url}/v1", api_key="unused") as sdk:
        file = ("tone.wav", tone())
        speech = sdk.audio.transcriptions
        whole = speech.create(model="tiny", file=file, language="en", temperature=1)
        assert whole.usage is not None
        assert whole.usage.type == "duration"
        assert whole.usage.seconds == SECONDS
        with speech.create(
            model="tiny", file=file, language="en", temperature=1, stream=True
        ) as stream:
            assert list(stream)
        with pytest.raises(openai.BadRequestError, match="Invalid or"):
            speech.create(model="tiny", file=("tone.wav", b"Hello"), language="en")
        with pytest.raises(openai.NotFoundError):
            speech.create(model="nope", file=file)
