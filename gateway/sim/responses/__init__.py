"""``/v1/responses``, as vLLM has it without gpt-oss's harmony format and without built-in tools."""
