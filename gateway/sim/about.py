"""What a worker tells of itself: ``/v1/models``, ``/health``, ``/ping``, ``/version``, ``/load``,
``/metrics``."""

from gateway.sim.exchange import Exchange, Routes
from gateway.sim.machine import Machine
from gateway.sim.wire import VERSION

_METRICS_TYPE = b"text/plain; version=1.0.0; charset=utf-8"


class About:
    """Every task has these."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Routes:
        """Path to method to handler."""
        return {
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/load": {"GET": self._load},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
        }

    def _models(self, exchange: Exchange) -> None:
        machine = self._machine
        salt = machine.random_id(exchange.request)
        length = machine.options.max_model_len
        cards = machine.models.cards(int(machine.now()), length, salt)
        exchange.send(200, {"object": "list", "data": cards})

    def _health(self, exchange: Exchange) -> None:
        exchange.send_nothing()

    def _version(self, exchange: Exchange) -> None:
        exchange.send(200, {"version": VERSION})

    def _load(self, exchange: Exchange) -> None:
        # vLLM counts only with --enable-server-load-tracking; without it the answer is 0.
        exchange.send(200, {"server_load": 0})

    def _metrics(self, exchange: Exchange) -> None:
        options, engine = self._machine.options, self._machine.engine
        gauges = {
            "running": engine.running,
            "waiting": engine.waiting,
            "awake": 0 if engine.asleep else 1,
            "kv_usage": engine.pool.used / engine.pool.blocks,
        }
        config = {
            "block_size": options.block_size,
            "cache_dtype": "auto",
            "enable_prefix_caching": True,
            "engine": 0,
            "gpu_memory_utilization": 0.92,
            "kv_cache_size_tokens": options.block_size * options.kv_blocks,
            "num_gpu_blocks": options.kv_blocks,
            "prefix_caching_hash_algo": "sha256",
        }
        text = self._machine.metrics.render(options.models[0], gauges, config)
        if self._machine.models.adapters:
            now = self._machine.now()
            text += self._machine.metrics.render_adapters(*engine.adapters(), now)
        exchange.send_bytes(200, text.encode(), _METRICS_TYPE)
