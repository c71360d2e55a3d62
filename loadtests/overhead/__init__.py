"""What a proxy in front of an OpenAI-style worker costs: CPU, memory, throughput, latency.

Run it with ``./dev bench`` or ``python -m loadtests.overhead``; ``--help`` explains the scenarios.
"""
