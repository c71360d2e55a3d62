"""``/metrics`` of a vLLM worker: the same names, labels, edges and help texts, moving truthfully.

Names and edges: ``vllm/v1/metrics/loggers.py`` and ``buckets.py`` of 0.32. Written by hand, since
the product keeps prometheus_client to one module. Not exported: the HTTP and process metrics of
vLLM's web server, and counters of features that this worker does not have.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_CHOICES = (1, 2, 5, 10, 20)


def one_two_five(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, … up to ``largest``: vLLM's edges for token counts."""
    edges: list[int] = []
    scale = 1
    while scale <= largest:
        edges += [m * scale for m in (1, 2, 5) if m * scale <= largest]
        scale *= 10
    return tuple(edges)


class Histogram:
    """Counts per bucket. ``observe`` is on the path of every token."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = list(edges)
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one sample."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def samples(self, name: str, labels: str) -> Iterator[str]:
        """Lines of the text format; ``labels`` are without braces, sorted around ``le``."""
        total = 0
        before, after = labels.split("|")
        for edge, count in zip([*map(float, self.edges), "+Inf"], self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{before},le="{edge}",{after}}} {float(total)}'
        yield f"{name}_count{{{before},{after}}} {float(total)}"
        yield f"{name}_sum{{{before},{after}}} {float(self.sum)}"


class Metrics:
    """All counters of one worker. Gauges are given when it is rendered."""

    def __init__(self, max_model_len: int) -> None:
        tokens = one_two_five(max_model_len)
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.rejections = 0
        self.finished = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self.request_prompt_tokens = Histogram(tokens)
        self.request_generation_tokens = Histogram(tokens)
        self.step_tokens = Histogram(_STEP_TOKENS)
        self.max_num_generation_tokens = Histogram(tokens)
        self.params_n = Histogram(_CHOICES)
        self.params_max_tokens = Histogram(tokens)
        self.ttft_s = Histogram(_TTFT_S)
        self.itl_s = Histogram(_ITL_S)
        self.tpot_s = Histogram(_ITL_S)
        self.e2e_s = Histogram(_LATENCY_S)
        self.queue_s = Histogram(_LATENCY_S)
        self.inference_s = Histogram(_LATENCY_S)
        self.prefill_s = Histogram(_LATENCY_S)
        self.decode_s = Histogram(_LATENCY_S)
        self.computed_tokens = Histogram(tokens)

    def render(self, model: str, gauges: Mapping[str, float], config: Mapping[str, object]) -> str:
        """The text format. ``gauges``: running, waiting, awake, kv_usage; ``config``: labels of
        ``vllm:cache_config_info``."""
        common = f'engine="0",model_name="{_escape(model)}"'
        lines: list[str] = []
        self._gauges(lines, common, gauges)
        self._counters(lines, common)
        for name, text, histogram in self._histograms():
            lines += _header(name, text, "histogram")
            lines += histogram.samples(name, f'engine="0"|model_name="{_escape(model)}"')
        labels = ",".join(f'{k}="{_escape(str(v))}"' for k, v in sorted(config.items()))
        lines += _header(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge"
        )
        lines.append(f"vllm:cache_config_info{{{labels}}} 1.0")
        return "\n".join(lines) + "\n"

    @staticmethod
    def render_adapters(running: Sequence[str], waiting: Sequence[str], now: float) -> str:
        """``vllm:lora_requests_info``: the labels tell, and the value is the Unix time."""
        name = "vllm:lora_requests_info"
        lists = (("running_lora_adapters", running), ("waiting_lora_adapters", waiting))
        labels = ",".join(f'{label}="{_escape(",".join(names))}"' for label, names in lists)
        lines = _header(name, "Running stats on lora requests.", "gauge")
        return "\n".join([*lines, f'{name}{{max_lora="1",{labels}}} {now}']) + "\n"

    @staticmethod
    def _gauges(lines: list[str], common: str, gauges: Mapping[str, float]) -> None:
        def gauge(name: str, text: str, samples: Mapping[str, float]) -> None:
            lines.extend(_header(name, text, "gauge"))
            lines.extend(f"{name}{{{common}{more}}} {float(v)}" for more, v in samples.items())

        awake = gauges["awake"]
        gauge(
            "vllm:num_requests_running",
            "Number of requests in model execution batches.",
            {"": gauges["running"]},
        )
        gauge(
            "vllm:num_requests_waiting",
            "Number of requests waiting to be processed.",
            {"": gauges["waiting"]},
        )
        gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for "
            "scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, "
            "KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
            {',reason="capacity"': gauges["waiting"], ',reason="deferred"': 0},
        )
        gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is "
            "awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep "
            "level 2.",
            {
                ',sleep_state="awake"': awake,
                ',sleep_state="weights_offloaded"': 1 - awake,
                ',sleep_state="discard_all"': 0,
            },
        )
        gauge(
            "vllm:kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
            {"": gauges["kv_usage"]},
        )

    def _counters(self, lines: list[str], common: str) -> None:
        def counter(name: str, text: str, samples: Mapping[str, float]) -> None:
            lines.extend(_header(f"{name}_total", text, "counter"))
            lines.extend(f"{name}_total{{{more}}} {float(v)}" for more, v in samples.items())

        model = common.split(",", 1)[1]
        computed = self.prompt_tokens - self.cached_prompt_tokens
        counter(
            "vllm:prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            {common: self.prefix_queries},
        )
        counter(
            "vllm:prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            {common: self.prefix_hits},
        )
        counter(
            "vllm:num_preemptions",
            "Cumulative number of preemption from the engine.",
            {common: 0},
        )
        counter(
            "vllm:prompt_tokens",
            "Number of prefill tokens processed.",
            {common: self.prompt_tokens},
        )
        counter(
            "vllm:prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            {
                f'{common},source="local_compute"': computed,
                f'{common},source="local_cache_hit"': self.cached_prompt_tokens,
                f'{common},source="external_kv_transfer"': 0,
            },
        )
        counter(
            "vllm:prompt_tokens_cached",
            "Number of cached prompt tokens (local + external).",
            {common: self.cached_prompt_tokens},
        )
        counter(
            "vllm:generation_tokens",
            "Number of generation tokens processed.",
            {common: self.generation_tokens},
        )
        counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            {
                f'engine="0",finished_reason="{reason}",{model}': count
                for reason, count in self.finished.items()
            },
        )
        counter(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            {
                f'{model},reason="max_num_queued_reqs"': self.rejections,
                f'{model},reason="max_num_queued_tokens"': 0,
            },
        )

    def _histograms(self) -> Iterator[tuple[str, str, Histogram]]:
        prefill = "Number of prefill tokens processed."
        generation = "Number of generation tokens processed."
        seconds = "Histogram of {} in seconds."
        phase = "Histogram of time spent in {} phase for request."
        yield "vllm:request_prompt_tokens", prefill, self.request_prompt_tokens
        yield "vllm:request_generation_tokens", generation, self.request_generation_tokens
        text = "Histogram of number of tokens per engine_step."
        yield "vllm:iteration_tokens_total", text, self.step_tokens
        text = "Histogram of maximum number of requested generation tokens."
        yield "vllm:request_max_num_generation_tokens", text, self.max_num_generation_tokens
        yield "vllm:request_params_n", "Histogram of the n request parameter.", self.params_n
        text = "Histogram of the max_tokens request parameter."
        yield "vllm:request_params_max_tokens", text, self.params_max_tokens
        text = seconds.format("time to first token")
        yield "vllm:time_to_first_token_seconds", text, self.ttft_s
        text = seconds.format("inter-token latency")
        yield "vllm:inter_token_latency_seconds", text, self.itl_s
        text = "Histogram of time_per_output_token_seconds per request."
        yield "vllm:request_time_per_output_token_seconds", text, self.tpot_s
        text = seconds.format("e2e request latency")
        yield "vllm:e2e_request_latency_seconds", text, self.e2e_s
        yield "vllm:request_queue_time_seconds", phase.format("WAITING"), self.queue_s
        yield "vllm:request_inference_time_seconds", phase.format("RUNNING"), self.inference_s
        yield "vllm:request_prefill_time_seconds", phase.format("PREFILL"), self.prefill_s
        yield "vllm:request_decode_time_seconds", phase.format("DECODE"), self.decode_s
        text = "Histogram of new KV tokens computed during prefill (excluding cached tokens)."
        yield "vllm:request_prefill_kv_computed_tokens", text, self.computed_tokens


def _header(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
