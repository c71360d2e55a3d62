"""Images, as OpenAI has them and vLLM-Omni serves them. vLLM itself has no such routes."""
