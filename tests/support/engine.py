"""Real vLLM engines as test equipment: a pytest plugin with session fixtures.

`engines` are two that generate. Others serve other surfaces, since an engine either generates,
embeds, classifies or transcribes: `pooling_engine`, `classifying_engine`, `transcribing_engine`.
Of these one runs at a time, beside the two; the tests that want one come last, kind by kind.

The engines run in their own virtual environment: `.venv-vllm` in the repository, or the one whose
Python is named by `--vllm-python`. Without it tests that need an engine are skipped; with
`--require-vllm`, or CI=true in the environment, they fail.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY_MODEL = Path(__file__).with_name("tiny_model.py")
MODEL = "tiny"
MAX_MODEL_LEN = 16384
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
LAST_LINES = 40


class Program:
    """A server in a process of its own, with its output in a file, to be stopped by its pid."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, **environ},
                start_new_session=True,  # it and its children are stopped together
            )
        self.pid = self._process.pid

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()` is true; raise with the last lines of its log if that fails."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._process.poll() is not None:
                raise RuntimeError(self._report(f"ended with code {self._process.returncode}"))
            if time.monotonic() > deadline:
                raise TimeoutError(self._report(f"was not ready within {timeout_s:.0f} s"))
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and its children: with SIGTERM, and with SIGKILL what is left after a while."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, sign)
                self._process.wait(STOP_TIMEOUT_S)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _report(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return f"{self.name} {what}; the end of {self.log}:\n" + "\n".join(lines)


@dataclass(frozen=True)
class Kind:
    """What an engine is made for."""

    model: str
    """The model, as `tiny_model.py` names it."""
    flags: tuple[str, ...]
    max_model_len: int = MAX_MODEL_LEN


GENERATING = Kind(
    "llama",
    (
        # An abort is heard between two steps: with small ones a long prompt is stopped at once.
        "--max-num-batched-tokens",
        "512",
        "--enable-prompt-tokens-details",
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
    ),
)
EMBEDDING = Kind(
    "llama",
    # The second: that a request may ask for fewer dimensions.
    ("--runner", "pooling", "--convert", "embed", "--hf-overrides", '{"is_matryoshka": true}'),
)
CLASSIFYING = Kind("classifier", ("--runner", "pooling", "--convert", "classify"))
TRANSCRIBING = Kind("whisper", (), max_model_len=448)


@dataclass(frozen=True)
class Engine:
    """One running engine."""

    url: str
    max_num_seqs: int
    """How many sequences it runs at once; further ones wait in its queue."""
    program: Program


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers_ok(url: str) -> bool:
    """Whether GET `url` is answered with 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def make_model(python: Path, cache: Path, model: str) -> Path:
    """The model folder below `cache`, made anew when the script that makes it has changed."""
    digest = hashlib.sha256(TINY_MODEL.read_bytes()).hexdigest()[:12]
    folder = cache / f"tiny-{model}-{digest}"
    subprocess.run([str(python), str(TINY_MODEL), model, str(folder)], check=True)
    return folder


def start_engine(python: Path, kind: Kind, log: Path, *, max_num_seqs: int = 64) -> Engine:
    """Start one engine and return at once; it is ready when `/health` answers."""
    model = make_model(python, REPOSITORY / ".cache", kind.model)
    port = free_port()
    # `vllm serve` asks for the metadata of a package that the CPU build does not have.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model), "--served-model-name", MODEL, "--load-format", "dummy"]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
    command += ["--max-model-len", str(kind.max_model_len), "--max-num-seqs", str(max_num_seqs)]
    # Without an explicit size the key-value cache takes most of the memory there is.
    command += ["--kv-cache-memory-bytes", str(256 * 2**20), *kind.flags]
    environ = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Without it no response can be read later, or be made in the background.
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
        "OMP_NUM_THREADS": "1",
    }
    program = Program(f"vLLM ({kind.model}) on port {port}", command, log, environ)
    return Engine(f"http://127.0.0.1:{port}", max_num_seqs, program)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vllm", "real vLLM engines")
    group.addoption(
        "--vllm-python",
        type=Path,
        default=REPOSITORY / ".venv-vllm" / "bin" / "python",
        help="Python of the environment that has vLLM",
    )
    group.addoption(
        "--require-vllm",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail, and do not skip, tests that need vLLM where it is not installed",
    )


@pytest.fixture(scope="session")
def vllm_python(pytestconfig: pytest.Config) -> Path:
    python: Path = pytestconfig.getoption("--vllm-python")
    if not python.exists():
        missing(pytestconfig, f"no vLLM: {python} does not exist; see ./dev test-vllm")
    return python


def missing(config: pytest.Config, what: str) -> NoReturn:
    """End a test for want of something: as skipped, or as failed where it has to be there."""
    if config.getoption("--require-vllm"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def engines(
    vllm_python: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """Two engines: one that runs 64 sequences at once, and one that queues the third."""
    logs = tmp_path_factory.mktemp("engines")
    started: list[Engine] = []
    try:
        for max_num_seqs in (64, 2):
            log = logs / f"engine-{len(started)}.log"
            started.append(start_engine(vllm_python, GENERATING, log, max_num_seqs=max_num_seqs))
        for engine in started:
            _wait_until_healthy(engine, pytestconfig)
        yield started[0], started[1]
    finally:
        for engine in started:
            engine.program.stop()


@pytest.fixture(scope="session")
def third_engine(
    vllm_python: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Kind], Engine]]:
    """Starts an engine in the place of the one that it started before: memory is for three."""
    logs = tmp_path_factory.mktemp("third-engine")
    running: list[Engine] = []

    def start(kind: Kind) -> Engine:
        while running:
            running.pop().program.stop()
        running.append(start_engine(vllm_python, kind, logs / f"{kind.model}.log"))
        _wait_until_healthy(running[0], pytestconfig)
        return running[0]

    yield start
    for engine in running:
        engine.program.stop()


@pytest.fixture(scope="session")
def pooling_engine(third_engine: Callable[[Kind], Engine]) -> Engine:
    """One that embeds, and scores by how near two embeddings are."""
    return third_engine(EMBEDDING)


@pytest.fixture(scope="session")
def classifying_engine(third_engine: Callable[[Kind], Engine]) -> Engine:
    """One that gives each text a class, of two."""
    return third_engine(CLASSIFYING)


@pytest.fixture(scope="session")
def transcribing_engine(
    third_engine: Callable[[Kind], Engine], vllm_python: Path, pytestconfig: pytest.Config
) -> Engine:
    """One that hears speech; vLLM reads it with `soundfile`, which does not come with it."""
    has_it = subprocess.run([str(vllm_python), "-c", "import soundfile"], check=False)
    if has_it.returncode != 0:
        missing(pytestconfig, f"no soundfile: {vllm_python} -m pip install --no-deps soundfile")
    return third_engine(TRANSCRIBING)


OF_THE_THIRD = (
    {"pooling_engine", "pooling_target"},
    {"classifying_engine", "classifying_target"},
    {"transcribing_engine", "transcribing_target"},
)
"""Fixtures that need the third engine: each set another kind of it."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one kind of the third engine come after all those of the kind before."""

    def place(item: pytest.Item) -> int:
        wanted = set(getattr(item, "fixturenames", ()))
        return max((at for at, names in enumerate(OF_THE_THIRD, 1) if names & wanted), default=0)

    items.sort(key=place)


def _wait_until_healthy(engine: Engine, config: pytest.Config) -> None:
    begin = time.monotonic()
    last_said = [begin]

    def ready() -> bool:
        now = time.monotonic()
        if now - last_said[0] >= 10:
            last_said[0] = now
            _say(config, f"waiting for {engine.program.name}: {now - begin:.0f} s")
        return answers_ok(f"{engine.url}/health")

    engine.program.wait_until(ready, START_TIMEOUT_S)
    _say(config, f"{engine.program.name} is ready, log {engine.program.log}")


def _say(config: pytest.Config, text: str) -> None:
    """Write a line of progress past pytest's capturing of output."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        sys.stderr.write(f"\n{text}\n")
        return
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\n{text}\n")
