"""Chat users against an OpenAI-compatible endpoint: TTFT, TPOT, ITL, tokens/s, and bounds on them.

    ./dev load --host http://127.0.0.1:8000 --users 20 --run-time 30s --headless --ttft-p95 500ms

Each user streams one answer after another. What is measured stands in rows of its own in locust's
table, its HTML report and its CSV files; at the end a summary has the exact figures, and a line for
each threshold. Exit code 1: a threshold was not met.

The rows are filled directly, not through locust's `request` event: its "Aggregated" row then counts
requests and nothing else, and its rate and share of failures mean what they say.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import gevent
import gevent.lock
import locust.log
import locust.stats
from locust import User, events, task
from locust.argument_parser import get_parser
from locust.runners import MasterRunner, WorkerRunner

# locust puts this file's folder on the path, not the repository.
sys.path.insert(0, str(Path(__file__).parents[1]))

from loadtests.chat import report, thresholds
from loadtests.chat.figures import MOST_SAMPLES, Figure, Figures, bucket
from loadtests.chat.prompts import Prompts
from loadtests.chat.raw import RawClient

ENDPOINT = "/v1/chat/completions"
ROWS = {
    Figure.TTFT: "time to first token",
    Figure.TPOT: "time per output token",
    Figure.ITL: "inter-token latency",
    Figure.RATE: "tokens/s of one answer (not ms)",
}
DISCOVERY_TIMEOUT_S = 10.0
REST_AFTER_FAILURE_S = 1.0
"""A server that refuses at once must not be hammered."""
EXIT_OK, EXIT_NOT_MET, EXIT_CANNOT_RUN = 0, 1, 2
_FLAG_OF_WORKERS = "chat"
"""Key under which processes of a distributed run send their samples."""


locust.stats.bucket_response_time = bucket  # the documented way to have finer ones

EXPLAINED = f"""\
An API key is read from the environment variable OPENAI_API_KEY. --stop-timeout is 30 here: answers
that run at the end may finish.

figures:
  TTFT     request sent to first token event; one sample per answer
  TPOT     first to last token event, by output token after the first; one sample per answer
  ITL      time between two token events; events of one read are 0 apart with --client raw
  tok/s    tokens of one answer by its whole duration: a rate, whatever the column says
Thresholds and the summary have exact samples, up to {MOST_SAMPLES:,} per figure, and from there on
an even draw of as many. Percentiles in locust's own tables are rounded. Times are written 50ms or
1.5s.

Failures: an HTTP error, a lost connection, an error event in the stream, an end without [DONE], an
answer without a token. --client openai makes no retries.

exit code: 0 all thresholds met; 1 one was not, or no answer came; 2 it could not run.

examples:
  ./dev load --host http://127.0.0.1:8000 --users 20 --spawn-rate 10 --run-time 30s --headless
  ./dev load --host http://127.0.0.1:8000 --users 200 --run-time 2m --headless --client raw \\
      --ttft-p95 500ms --tpot-p95 50ms --itl-p99 100ms --error-share 1% --html report.html
  ./dev load --host http://127.0.0.1:8000            with locust's web page on port 8089
"""


@events.init_command_line_parser.add_listener
def add_flags(parser):
    """The flags of this file. Secrets have none: the API key comes from OPENAI_API_KEY."""
    # Answers that run when the time is up may end: cut ones would be missing in the figures.
    parser.set_defaults(stop_timeout=30)
    parser.epilog = EXPLAINED
    what = parser.add_argument_group("Chat", "What the users do.")
    what.add_argument(
        "--client", choices=("openai", "raw"), default="openai",
        help="openai: OpenAI's SDK, as applications have it. raw: a bare socket, for many users. "
        "At 60 tokens/s a user, one core is busy with some 100 users of the SDK, or 700 raw ones; "
        "--processes adds cores. (openai)",
    )  # fmt: skip
    what.add_argument(
        "--model", default="", metavar="NAME", help="model to ask (the first of /v1/models)"
    )
    what.add_argument(
        "--max-tokens",
        type=count,
        default=64,
        metavar="N",
        help="most tokens of an answer (64)",
    )
    what.add_argument(
        "--prompt-words", type=count, default=64, metavar="N", help="words of a prompt (64)"
    )
    what.add_argument(
        "--shared-prefix", type=thresholds.share, default=0.0, metavar="SHARE",
        help="this share of each prompt, from its start, is the same for all: what a worker's "
        "prefix cache knows (0%%)",
    )  # fmt: skip
    what.add_argument(
        "--think-time", type=thresholds.wait_s, default=0.0, metavar="TIME",
        help="pause between two answers of a user, from half to one and a half of this (0s: "
        "as many streams are open as there are users)",
    )  # fmt: skip
    what.add_argument(
        "--answer-timeout", type=thresholds.wait_s, default=600.0, metavar="TIME",
        help="how long an answer may be silent (600s)",
    )  # fmt: skip
    must = parser.add_argument_group("Thresholds", "The run fails where one is not met.")
    for bound in thresholds.BOUNDS:
        must.add_argument(
            bound.flag, dest=bound.dest, type=thresholds.wait_s, metavar="TIME",
            help=f"most that {bound.name} may be",
        )  # fmt: skip
    must.add_argument(
        "--error-share", type=thresholds.share, default=0.0, metavar="SHARE",
        help="most requests that may fail (0%%)",
    )  # fmt: skip


def count(text):
    """A flag's whole number of at least 1. For argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


class ChatTest:
    """What the users of one process share, and what is said at the end."""

    def __init__(self, environment, runner):
        self._environment = environment
        self._options = environment.parsed_options
        self._runner = runner
        self._model = ""
        self._asking_for_model = gevent.lock.Semaphore()
        self._began_s = self._cpu_began_s = 0.0
        self._last_words = ""
        self.figures = Figures()
        self.prompts = None
        listen = environment.events
        listen.test_start.add_listener(self._start)
        listen.spawning_complete.add_listener(self._spawned)
        if isinstance(runner, WorkerRunner):
            listen.report_to_master.add_listener(self._send_samples)
            return
        if isinstance(runner, MasterRunner):
            listen.worker_report.add_listener(self._receive_samples)
        listen.quitting.add_listener(self._judge)
        listen.quit.add_listener(self._speak)

    def model(self):
        """The model to ask for. RuntimeError says why there is none."""
        with self._asking_for_model:
            if not self._model:
                self._model = self._options.model or first_model(self._environment.host)
            return self._model

    def add(self, answer):
        """An answer has ended: one request for locust, and samples in rows of their own."""
        self.figures.add(answer)
        self._environment.events.request.fire(
            request_type="POST",
            name=ENDPOINT,
            response_time=answer.duration_s * 1000,
            response_length=answer.body_bytes,
            exception=answer.failure,
            context={},
        )
        stats = self._environment.stats
        rate = None if answer.failure else answer.tokens_per_s
        for figure, values in (
            (Figure.TTFT, (answer.ttft_s,)),
            (Figure.TPOT, (answer.tpot_s,)),
            (Figure.ITL, answer.gaps_s),
            (Figure.RATE, (rate,)),
        ):
            unit = 1 if figure is Figure.RATE else 1000
            log = stats.get(ROWS[figure], figure.value).log
            for value in values:
                if value is not None:
                    log(value * unit, 0)

    def _start(self, **_):
        """In the web interface, perhaps not the first test."""
        options = self._options
        self.figures.clear()
        self.prompts = Prompts(options.prompt_words, options.shared_prefix)
        self._model = ""
        self._began_s, self._cpu_began_s = time.monotonic(), time.process_time()

    def _spawned(self, **_):
        if self._environment.reset_stats:
            self.figures.clear()

    def _send_samples(self, data, **_):
        data[_FLAG_OF_WORKERS] = self.figures.take()

    def _receive_samples(self, data, **_):
        if _FLAG_OF_WORKERS in data:
            self.figures.merge(data[_FLAG_OF_WORKERS])

    def _judge(self, **_):
        """Before locust chooses its exit code."""
        total = self._environment.stats.total
        seconds = (total.last_request_timestamp or total.start_time) - total.start_time
        verdicts = [
            thresholds.judge(bound, limit_s, self.figures)
            for bound in thresholds.BOUNDS
            if (limit_s := getattr(self._options, bound.dest)) is not None
        ]
        limit = self._options.error_share
        verdicts.append(thresholds.judge_errors(total.num_failures, total.num_requests, limit))
        words = [
            report.summary(
                self.figures,
                requests=total.num_requests,
                failures=total.num_failures,
                seconds=seconds,
            )
        ]
        if self._began_s and not isinstance(self._runner, MasterRunner):
            busy = time.process_time() - self._cpu_began_s
            words.append(report.own_cost(busy / (time.monotonic() - self._began_s)))
        words += ["", *(verdict.line for verdict in verdicts)]
        self._last_words = "\n".join(words)
        broken = self._runner.exceptions or locust.log.unhandled_greenlet_exception
        if not all(verdict.met for verdict in verdicts):
            self._environment.process_exit_code = EXIT_NOT_MET
        elif not broken:
            self._environment.process_exit_code = EXIT_OK  # failures there may be were allowed

    def _speak(self, **_):
        """After locust's own tables."""
        print(self._last_words, flush=True)


def first_model(host):
    """The first of `/v1/models`. RuntimeError says why there is none."""
    url = f"{host.rstrip('/')}/v1/models"
    request = urllib.request.Request(url)  # noqa: S310 - the user's own --host
    if key := os.environ.get("OPENAI_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=DISCOVERY_TIMEOUT_S) as answer:  # noqa: S310
            models = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        hint = " (is OPENAI_API_KEY set?)" if error.code == 401 else ""
        raise RuntimeError(f"{url} answered {error.code}{hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{url} tells no models: {error}") from None
    if not models:
        raise RuntimeError(f"{url} lists no model")
    return models[0]["id"]


class ChatUser(User):
    """Streams one answer after another, on a connection of its own."""

    abstract = True

    def on_start(self):
        """Connect, as it were: the socket itself is opened by the first request."""
        self.test = self.environment.chat
        self.options = self.environment.parsed_options
        self.random = Random()  # noqa: S311 - prompts, not secrets
        self.model = self.test.model()
        key = os.environ.get("OPENAI_API_KEY")
        self.client = self.new_client(self.host, key, self.options.answer_timeout)

    def on_stop(self):
        """Give the connection back."""
        self.client.close()

    def wait_time(self):
        """Seconds to think."""
        return self.options.think_time * self.random.uniform(0.5, 1.5)

    @task
    def chat(self):
        """One answer. One that the end of the test cuts is not counted."""
        prompt = self.test.prompts.next(self.random)
        answer = self.client.ask(self.model, prompt, self.options.max_tokens)
        self.test.add(answer)
        if answer.failure is not None:
            gevent.sleep(REST_AFTER_FAILURE_S)


class OpenAIUser(ChatUser):
    """Streams through OpenAI's SDK."""

    @staticmethod
    def new_client(host, api_key, timeout_s):
        """See `loadtests.chat.sdk`; raw users need not wait a second for its import."""
        from loadtests.chat.sdk import SdkClient  # noqa: PLC0415

        return SdkClient(host, api_key, timeout_s)


class RawUser(ChatUser):
    """Streams through a bare socket."""

    new_client = RawClient


@events.init.add_listener
def begin(environment, runner, **_):
    """Choose the users; say before the start what would fail each of them."""
    options = environment.parsed_options
    environment.chat = ChatTest(environment, runner)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the SDK's: a line for each request
    if options.client == "openai":
        importlib.import_module("loadtests.chat.sdk")  # takes a second, which no answer shall wait
    if isinstance(runner, WorkerRunner):
        return
    if not options.user_classes:
        environment.user_classes = [OpenAIUser if options.client == "openai" else RawUser]
    if options.headless:
        try:
            if not environment.host:
                raise RuntimeError("--host is needed, such as --host http://127.0.0.1:8000")
            options.model = environment.chat.model()
        except RuntimeError as error:
            print(f"chat: {error}", file=sys.stderr)
            sys.exit(EXIT_CANNOT_RUN)


def main():
    """`python loadtests/locustfile.py`: as `locust --locustfile`, which shows its own --help before
    it has read this file, and so without these flags."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        get_parser().print_help()
        return
    command = [sys.executable, "-m", "locust", "--locustfile", __file__, *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606


if __name__ == "__main__":
    main()
