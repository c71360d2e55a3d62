"""One OpenAI-compatible endpoint in front of many vLLM workers."""

__version__ = "0.1.0"
