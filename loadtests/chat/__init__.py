"""Chat users for locust: how an answer is asked for, read, timed and judged.

`loadtests/locustfile.py` ties these parts to locust; they know nothing of it.
"""
