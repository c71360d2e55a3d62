"""Speech to text, as vLLM has it, and text to speech, as vLLM-Omni and others have it."""
