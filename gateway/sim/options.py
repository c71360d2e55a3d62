"""What a simulated worker is told at its start, and how durations are written."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m)?")
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Seconds from ``80ms``, ``1.5s``, ``200us``, ``2m``, or a plain number of seconds.

    Raises ``ValueError`` with a message for people.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 80ms, 1.5s or 0")
    return float(match[1]) * _UNIT_S[match[2]]


TASKS = ("all", "generate", "pooling", "transcription", "speech", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions:
    """One simulated worker. The defaults answer at once, which is what tests want.

    Raises ``ValueError`` for values that a real worker could not start with.
    """

    models: tuple[str, ...] = ("demo",)
    """Served names. As with vLLM's ``--served-model-name a b``, they are aliases of one model:
    answers always carry the first."""
    loras: tuple[str, ...] = ()
    """LoRA adapters: listed with the first name as their parent, used as ``model``."""
    task: str = "all"
    """A vLLM engine either generates or pools; ``all`` serves every surface at once."""
    responses_store: int = 0
    """How many responses are kept for ``previous_response_id``, GET and cancel; the oldest go.
    0: none, as vLLM without ``VLLM_ENABLE_RESPONSES_API_STORE=1``. vLLM has no bound."""
    embedding_size: int = 64
    """Dimensions of embeddings; a request may ask for fewer."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free port."""
    ttft_s: float = 0.0
    """Time to the first token of an empty prompt."""
    itl_s: float = 0.0
    """Time between two tokens of a sequence."""
    jitter: float = 0.0
    """Share by which the two times above vary, both ways: 0.2 is ±20 %."""
    prefill_tokens_per_s: float = 0.0
    """Speed of prompt tokens that are not in the prefix cache; 0 takes no time at all."""
    max_num_seqs: int = 64
    max_model_len: int = 32_768
    block_size: int = 16
    kv_blocks: int = 8_192
    max_waiting: int | None = None
    """Sequences that may wait beyond ``max_num_seqs``; more get vLLM's 503. As with vLLM's
    ``--max-num-queued-reqs``, which is ``max_num_seqs`` more. None: no limit."""
    api_keys: tuple[str, ...] = ()
    """vLLM's ``--api-key``: guards ``/v1`` and its like only."""
    faults: tuple[str, ...] = ()
    """Fault specifications (see ``gateway.sim.faults``), the first that applies is taken."""
    seed: int = 0
    """Same prompt and same seed: same text."""
    sse_keep_alive_interval_s: float = 0.0
    keep_alive_s: float = 5.0
    """Idle time after which a connection is closed; vLLM leaves uvicorn's 5 s."""
    prompt_tokens_details: bool = True
    """vLLM's ``--enable-prompt-tokens-details``."""
    request_id_headers: bool = False
    """vLLM's ``--enable-request-id-headers``: ``X-Request-Id`` on answers."""
    frozen_time: float | None = None
    """Unix seconds for ``created`` and ``date``, and ids that repeat: the same request with the
    same ``X-Request-Id`` gets the same bytes. Caching still shows in ``cached_tokens``."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    record: int = 256
    """How many of the last requests are kept for a test to look at."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, in words."""
        self._check_names()
        self._check_numbers()
        if self.kv_blocks * self.block_size < self.max_model_len:
            raise ValueError(
                f"kv_blocks={self.kv_blocks} of {self.block_size} tokens cannot hold one request "
                f"of max_model_len={self.max_model_len}"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and a key")

    def _check_names(self) -> None:
        if not self.models or not all(self.models):
            raise ValueError("at least one model name is needed, and none may be empty")
        if not all(self.loras) or set(self.loras) & set(self.models):
            raise ValueError("a LoRA adapter needs a name of its own")
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")

    def _check_numbers(self) -> None:
        for name in ("ttft_s", "itl_s", "prefill_tokens_per_s", "sse_keep_alive_interval_s"):
            value = getattr(self, name)
            if value < 0 or not math.isfinite(value):
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, got {self.jitter}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        for name in ("max_num_seqs", "max_model_len", "block_size", "kv_blocks", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_waiting", "responses_store"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
