"""Operators' routes: what a gateway must never let a client reach. Each counts its calls.

Some do what they say (sleep, pause, LoRA adapters, the prefix cache); the others only answer as
vLLM does. vLLM has most of them in development mode or with a flag only; here they are always on.
"""

from collections import Counter

from gateway.sim.exchange import Exchange, Route, Routes
from gateway.sim.machine import Machine
from gateway.sim.schema import Json

_GET = ("/server_info", "/is_scaling_elastic_ep", "/weight_info", "/get_world_size")
_MESSAGES: dict[str, Json] = {
    "/init_weight_transfer_engine": {"message": "Weight transfer initialized"},
    "/shutdown_weight_transfer_engine": {"message": "Weight transfer shut down"},
    "/start_weight_update": {"message": "Weight update started"},
    "/start_draft_weight_update": {"message": "Draft weight update started"},
    "/update_weights": {"message": "Weights updated"},
    "/finish_weight_update": {"message": "Weight update finished"},
    "/update_weight_version": {"success": True, "new_version": ""},
    "/weight_checker": {"checksums": {}},
    "/release_kv_cache_memory": {"status": "kv_cache_released"},
    "/abort_requests": {"status": "aborted", "aborted": 0},
    "/scale_elastic_ep": {"message": "Scaled to 1 data parallel engines"},
    "/fault_tolerance/apply": {},
    "/invocations": {},
    "/server_info": {"vllm_config": "simulated", "vllm_env": {}, "system_env": {}},
    "/is_scaling_elastic_ep": {"is_scaling_elastic_ep": False},
    "/weight_info": {"weight_version": None},
    "/get_world_size": {"world_size": 1},
    "/collective_rpc": {"results": [None]},
}
_SILENT = ("/reset_mm_cache", "/reset_encoder_cache", "/start_profile", "/stop_profile")


class Operators:
    """The routes, and how often each was called."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._paused = False
        self.calls: Counter[str] = Counter()
        """Path to number of calls, of any method."""

    def routes(self) -> Routes:
        """Path to method to handler."""
        table: dict[str, tuple[str, Route]] = {
            "/sleep": ("POST", self._sleep),
            "/wake_up": ("POST", self._wake),
            "/is_sleeping": ("GET", self._is_sleeping),
            "/pause": ("POST", self._pause),
            "/resume": ("POST", self._resume),
            "/is_paused": ("GET", self._is_paused),
            "/reset_prefix_cache": ("POST", self._reset_prefix_cache),
            "/v1/load_lora_adapter": ("POST", self._load_adapter),
            "/v1/unload_lora_adapter": ("POST", self._unload_adapter),
        }
        for path, value in _MESSAGES.items():
            table[path] = ("GET" if path in _GET else "POST", _says(value))
        for path in _SILENT:
            table[path] = ("POST", Exchange.send_nothing)
        return {path: {m: self._counted(path, route)} for path, (m, route) in table.items()}

    def _counted(self, path: str, route: Route) -> Route:
        def counted(exchange: Exchange) -> None:
            self.calls[path] += 1
            route(exchange)

        return counted

    def _sleep(self, exchange: Exchange) -> None:
        level = exchange.query().get("level", "1")
        self._machine.engine.sleep()
        exchange.send(200, {"status": "sleeping", "level": int(level) if level.isdigit() else 1})

    def _wake(self, exchange: Exchange) -> None:
        self._machine.engine.wake()
        exchange.send(200, {"status": "awake", "tags": None})

    def _is_sleeping(self, exchange: Exchange) -> None:
        exchange.send(200, {"is_sleeping": self._machine.engine.asleep})

    def _pause(self, exchange: Exchange) -> None:
        # As vLLM's mode "keep": requests freeze, and go on at /resume.
        self._paused = True
        self._machine.engine.sleep()
        exchange.send(200, {"status": "paused"})

    def _resume(self, exchange: Exchange) -> None:
        self._paused = False
        self._machine.engine.wake()
        exchange.send(200, {"status": "resumed"})

    def _is_paused(self, exchange: Exchange) -> None:
        exchange.send(200, {"is_paused": self._paused})

    def _reset_prefix_cache(self, exchange: Exchange) -> None:
        self._machine.engine.pool.forget()
        exchange.send(200, {"success": self._machine.engine.pool.used == 0})

    def _load_adapter(self, exchange: Exchange) -> None:
        body = exchange.body()
        name, path = str(body.get("lora_name") or ""), str(body.get("lora_path") or "")
        self._machine.models.load(name, path, again=bool(body.get("load_inplace")))
        text = f"Success: LoRA adapter '{name}' added successfully."
        _send_text(exchange, text)

    def _unload_adapter(self, exchange: Exchange) -> None:
        name = str(exchange.body().get("lora_name") or "")
        self._machine.models.unload(name)
        _send_text(exchange, f"Success: LoRA adapter '{name}' removed successfully.")


def _says(value: Json) -> Route:
    return lambda exchange: exchange.send(200, value)


def _send_text(exchange: Exchange, text: str) -> None:
    body = text.encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"vary", b"Origin")]
    exchange.response.whole(200, headers, body)
