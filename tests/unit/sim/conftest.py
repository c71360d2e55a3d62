"""Workers for the tests of the simulator."""

from collections.abc import AsyncIterator

import openai
import pytest

from gateway.sim import Sim, SimOptions


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """A worker that answers at once."""
    async with Sim(SimOptions(max_model_len=2048, block_size=32)) as running:
        yield running


@pytest.fixture
async def slow() -> AsyncIterator[Sim]:
    """A worker that never gets to its first token."""
    async with Sim(SimOptions(ttft_s=3600, max_num_seqs=1)) as running:
        yield running


@pytest.fixture
async def client(sim: Sim) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, talking to ``sim``."""
    async with openai.AsyncOpenAI(
        base_url=f"{sim.url}/v1", api_key="none", max_retries=0
    ) as running:
        yield running
