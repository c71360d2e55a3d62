"""Load tests: overhead against nginx, soak, and locust scenarios."""
