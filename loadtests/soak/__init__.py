"""Memory and accounts of the gateway over many requests of all kinds, the rude ones included.

Run it with ``./dev soak`` or ``python -m loadtests.soak``; ``--help`` explains what is checked.
"""
