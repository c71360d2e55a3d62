"""The straight path of one request. Start with `pipeline.py`."""
