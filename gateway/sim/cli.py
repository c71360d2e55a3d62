"""``vllm-gateway sim``: flags, and a worker that runs until it is told to stop."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.sim.faults import describe
from gateway.sim.options import TASKS, SimOptions, parse_duration
from gateway.sim.sim import Sim

_DESCRIPTION = """\
A look-alike of a vLLM worker that needs no GPU and no model: the same endpoints, the same JSON,
the same metrics, tokens at the pace you set. For demos, tests and load tests. It serves chat,
completions, responses, messages, embeddings, pooling, scores, ranks, transcriptions, speech and
images.
"""

_EPILOG = """\
examples:
  vllm-gateway sim --model demo --port 8100 --ttft 80ms --itl 15ms
      a small model on a fast GPU
  vllm-gateway sim --model demo --port 8101 --ttft 200ms --itl 30ms --jitter 0.2 \\
      --prefill-tokens-per-second 8000 --max-num-seqs 8
      a busy one: long prompts are slow unless they are cached, the ninth request waits
  vllm-gateway sim --model demo --fault reset@3,p=0.1 --fault hang@0,path=/health,skip=20
      one stream in ten is reset after three events; /health hangs from its 21st call on
  vllm-gateway sim --model demo --lora demo-sql --responses-store
      with an adapter, and with responses that can be asked for again
  vllm-gateway sim --model embedder --task pooling --embedding-size 384
      only what an embedding engine serves
  curl localhost:8100/v1/audio/speech -H 'Content-Type: application/json' \\
      -d '{"model":"demo","input":"One tone for each word"}' | aplay
      to be heard
  curl localhost:8100/v1/chat/completions -H 'Content-Type: application/json' \\
      -H 'X-Sim-Fault: eof@2' -d '{"model":"demo","stream":true,"messages":[...]}'
      one request that breaks

faults (--fault SPEC, or the header X-Sim-Fault: SPEC; items are joined by commas;
@N is @0 before the head, @head after it, @3 after three events):
"""


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``sim`` to ``parser``, with its help text."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.epilog = (_EPILOG + describe()).replace("%", "%%")
    _add_serving(parser)
    _add_timing(parser)
    _add_engine(parser)
    group = parser.add_argument_group("misbehaviour")
    group.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="see below; repeatable"
    )


def _add_serving(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("serving")
    group.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="served model name (demo); more names are aliases, answers carry the first",
    )
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="NAME",
        help="LoRA adapter, listed and used as a model of its own; repeatable",
    )
    group.add_argument(
        "--task",
        choices=TASKS,
        default="all",
        help="what it serves: a vLLM engine either generates or pools (%(default)s)",
    )
    group.add_argument(
        "--responses-store",
        type=int,
        nargs="?",
        const=1000,
        default=0,
        metavar="N",
        help="keep the last N responses (1000), as vLLM with VLLM_ENABLE_RESPONSES_API_STORE=1; "
        "off unless given",
    )
    group.add_argument(
        "--embedding-size",
        type=int,
        default=64,
        metavar="N",
        help="dimensions of embeddings (%(default)s)",
    )
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    group.add_argument(
        "--port", type=int, default=8100, help="port, 0 for any free one (%(default)s)"
    )
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that clients must send for /v1, one per line, as vLLM's --api-key",
    )
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS: certificate")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="serve HTTPS: private key")
    group.add_argument(
        "--sse-keep-alive-interval",
        type=_duration,
        default=0.0,
        metavar="TIME",
        help="a comment in streams that are silent so long (off)",
    )
    group.add_argument(
        "--enable-request-id-headers", action="store_true", help="X-Request-Id on answers"
    )
    group.add_argument(
        "--no-prompt-tokens-details",
        action="store_true",
        help="no cached_tokens in usage, as vLLM without --enable-prompt-tokens-details",
    )


def _add_timing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("timing (80ms, 1.5s, 0)")
    group.add_argument(
        "--ttft", type=_duration, default=0.08, metavar="TIME", help="time to first token (80ms)"
    )
    group.add_argument(
        "--itl", type=_duration, default=0.015, metavar="TIME", help="time between tokens (15ms)"
    )
    group.add_argument(
        "--jitter", type=float, default=0.0, metavar="SHARE", help="vary both by ±SHARE (0)"
    )
    group.add_argument(
        "--prefill-tokens-per-second",
        type=float,
        default=20_000.0,
        metavar="N",
        help="prompt tokens that are not cached add to the time to first token; "
        "0: prompts cost nothing (20000)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="same prompt and seed, same text (%(default)s)"
    )
    group.add_argument(
        "--frozen-time",
        type=float,
        metavar="UNIX",
        help="fixed dates and ids: the same request gets the same bytes",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--max-num-seqs", type=int, default=64, metavar="N", help="running at once (%(default)s)"
    )
    group.add_argument(
        "--max-waiting", type=int, metavar="N", help="waiting at once; more get 503 (no limit)"
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        default=32_768,
        metavar="N",
        help="tokens of prompt and answer (%(default)s)",
    )
    group.add_argument(
        "--block-size", type=int, default=16, metavar="N", help="tokens per block (%(default)s)"
    )
    group.add_argument(
        "--kv-blocks", type=int, default=8192, metavar="N", help="blocks of cache (%(default)s)"
    )


def _options(args: argparse.Namespace) -> SimOptions:
    keys: tuple[str, ...] = ()
    if args.api_key_file is not None:
        keys = tuple(filter(None, map(str.strip, args.api_key_file.read_text().splitlines())))
        if not keys:
            raise ValueError(f"{args.api_key_file} holds no key")
    return SimOptions(
        models=tuple(args.model or ("demo",)),
        loras=tuple(args.lora),
        task=args.task,
        responses_store=args.responses_store,
        embedding_size=args.embedding_size,
        host=args.host,
        port=args.port,
        ttft_s=args.ttft,
        itl_s=args.itl,
        jitter=args.jitter,
        prefill_tokens_per_s=args.prefill_tokens_per_second,
        max_num_seqs=args.max_num_seqs,
        max_model_len=args.max_model_len,
        block_size=args.block_size,
        kv_blocks=args.kv_blocks,
        max_waiting=args.max_waiting,
        api_keys=keys,
        faults=tuple(args.fault),
        seed=args.seed,
        sse_keep_alive_interval_s=args.sse_keep_alive_interval,
        prompt_tokens_details=not args.no_prompt_tokens_details,
        request_id_headers=args.enable_request_id_headers,
        frozen_time=args.frozen_time,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        record=0,
    )


async def _serve(sim: Sim) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with sim:
        sys.stdout.write(f"sim: serving {', '.join(sim.options.models)} on {sim.url}\n")
        sys.stdout.flush()
        await stop.wait()


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT: 0. A bad value or an address in use: 2, and why on stderr."""
    try:
        sim = Sim(_options(args))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(sim))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"sim: {error}\n")
        return 2
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it serves about twice as many streams."""
    try:
        import uvloop  # noqa: PLC0415 - optional, and not needed to print the help
    except ImportError:
        return None
    return uvloop.new_event_loop
