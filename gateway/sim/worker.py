"""The simulated worker without its sockets: routes, and what they answer."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import asdict
from email.utils import formatdate
from hashlib import blake2b
from time import time

from gateway.sim.answers import Author
from gateway.sim.connection import Request
from gateway.sim.engine import Engine
from gateway.sim.generation import Generation, Machine
from gateway.sim.metrics import Metrics
from gateway.sim.misbehave import refusal
from gateway.sim.options import SimOptions
from gateway.sim.requests import GenerateRequest, RequestReader
from gateway.sim.response import Headers, Response
from gateway.sim.rules import DETOKENIZE_FIELDS, TOKENIZE_FIELDS
from gateway.sim.schema import (
    ApiError,
    BodyUnreadableError,
    Json,
    check_fields,
    decode,
    field_error,
    invalid,
)
from gateway.sim.text import Tokenizer
from gateway.sim.wire import VERSION, Names, encode

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_METRICS_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
_VARY = (b"vary", b"Origin")

Route = Callable[[Request, Response], None]


class Worker:
    """Answers requests like one vLLM server."""

    def __init__(self, options: SimOptions, changed: Callable[[], None]) -> None:
        self._options = options
        self.metrics = Metrics(options.max_model_len)
        self.engine = Engine(options, self.metrics, changed)
        self._tokenizer = Tokenizer()
        author = Author(self._tokenizer)
        self._machine = Machine(options, self._tokenizer, author, self.engine)
        self._reader = RequestReader(options, self._tokenizer, self._admit)
        self._loop = asyncio.get_running_loop()
        self._date = (0, b"")
        shape = repr(sorted(asdict(options).items(), key=lambda item: item[0]))
        stable = f"{options.models[0]}/{options.max_model_len}/{options.block_size}"
        seen = stable if options.frozen_time is not None else shape
        self._fingerprint = f"vllm-{VERSION}-{blake2b(seen.encode(), digest_size=4).hexdigest()}"
        self._routes: dict[str, dict[str, Route]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/load": {"GET": self._load},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            # vLLM has these in development mode.
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
        }

    def answer(self, request: Request, response: Response) -> None:
        """Answer now, or start what answers later."""
        if self._options.request_id_headers:
            name = request.header(b"x-request-id") or uuid.uuid4().hex
            response.extra = [(b"x-request-id", name.encode())]
        if not self._authorized(request):
            self._send(response, 401, {"error": "Unauthorized"}, vary=False)
            return
        route = self._route(request, response)
        if route is None:
            return
        try:
            route(request, response)
        except ApiError as error:
            self._send(response, error.status, error.body())
        except BodyUnreadableError:
            self._send(response, 400, {"detail": "There was an error parsing the body"})

    def now(self) -> float:
        """Unix time, or the frozen one."""
        frozen = self._options.frozen_time
        return time() if frozen is None else frozen

    def date(self) -> bytes:
        """The ``date`` header, made once a second."""
        second = int(self.now())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    def _authorized(self, request: Request) -> bool:
        keys = self._options.api_keys
        if not keys or request.method == "OPTIONS" or not request.path.startswith(_GUARDED):
            return True
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and key in keys

    def _route(self, request: Request, response: Response) -> Route | None:
        path = request.path
        methods = self._routes.get(path)
        if methods is None and path.endswith("/") and path.rstrip("/") in self._routes:
            host = request.header(b"host") or ""
            location = f"http://{host}{path.rstrip('/')}".encode()
            response.whole(307, [(b"content-length", b"0"), (b"location", location), _VARY], b"")
            return None
        if methods is None:
            self._send(response, 404, {"detail": "Not Found"})
            return None
        route = methods.get(request.method)
        if route is None:
            allow = next(iter(methods)).encode()
            self._send(response, 405, {"detail": "Method Not Allowed"}, before=[(b"allow", allow)])
        return route

    def _send(
        self,
        response: Response,
        status: int,
        value: Json,
        *,
        before: Headers | None = None,
        vary: bool = True,
    ) -> None:
        body = encode(value)
        headers = [*(before or ()), (b"content-length", b"%d" % len(body))]
        headers.append((b"content-type", b"application/json"))
        response.whole(status, [*headers, _VARY] if vary else headers, body)

    def _admit(self, sequences: int) -> None:
        if not self.engine.has_room(sequences):
            self.metrics.rejections += 1
            raise refusal(503)

    # Generation

    def _chat(self, request: Request, response: Response) -> None:
        self._generate(request, response, self._reader.chat, "chatcmpl-")

    def _completions(self, request: Request, response: Response) -> None:
        self._generate(request, response, self._reader.completion, "cmpl-")

    def _generate(
        self,
        request: Request,
        response: Response,
        read: Callable[[Json], GenerateRequest],
        prefix: str,
    ) -> None:
        wanted = read(self._body(request))
        name = request.header(b"x-request-id") or wanted.body_id or self._random_id(request)
        names = Names(prefix + name, int(self.now()), self._options.models[0], self._fingerprint)
        Generation(self._machine, wanted, names, response).start()

    def _random_id(self, request: Request) -> str:
        if self._options.frozen_time is None:
            return uuid.uuid4().hex[:16]
        return blake2b(request.body, digest_size=8).hexdigest()

    @staticmethod
    def _body(request: Request) -> Json:
        kind = (request.header(b"content-type") or "").lower().split(";", 1)[0]
        if kind != "application/json":
            raise invalid(["Unsupported Media Type: Only 'application/json' is allowed"])
        return decode(request.body)

    # The rest

    def _models(self, request: Request, response: Response) -> None:
        created = int(self.now())
        cards = [
            {
                "id": model,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": self._options.models[0],
                "parent": None,
                "max_model_len": self._options.max_model_len,
                "permission": [self._permission(created, request)],
            }
            for model in self._options.models
        ]
        self._send(response, 200, {"object": "list", "data": cards})

    def _permission(self, created: int, request: Request) -> Json:
        return {
            "id": f"modelperm-{self._random_id(request)}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }

    def _health(self, _request: Request, response: Response) -> None:
        response.whole(200, [(b"content-length", b"0"), _VARY], b"")

    def _version(self, _request: Request, response: Response) -> None:
        self._send(response, 200, {"version": VERSION})

    def _load(self, _request: Request, response: Response) -> None:
        # vLLM counts only with --enable-server-load-tracking; without it the answer is 0.
        self._send(response, 200, {"server_load": 0})

    def _metrics(self, _request: Request, response: Response) -> None:
        options, engine = self._options, self.engine
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
        body = self.metrics.render(options.models[0], gauges, config).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _METRICS_TYPE)]
        response.whole(200, [*headers, _VARY], body)

    def _tokenize(self, request: Request, response: Response) -> None:
        body = self._body(request)
        if body.get("prompt") is None and body.get("messages") is None:
            missing = [
                field_error("missing", f"body.{name}", "Field required", body)
                for name in ("prompt", "messages")
            ]
            raise invalid([*missing])
        values = check_fields(body, TOKENIZE_FIELDS)
        self._reader.check_model(values.get("model"))
        if "prompt" in values:
            ids = self._tokenizer.encode(values["prompt"])
        else:
            opened = values.get("add_generation_prompt", True)
            ids = self._reader.chat_prompt(values["messages"], opened).tokens
        strings = [self._tokenizer.shown(i) for i in ids]
        answer = {
            "count": len(ids),
            "max_model_len": self._options.max_model_len,
            "tokens": ids,
            "token_strs": strings if values.get("return_token_strs") else None,
        }
        self._send(response, 200, answer)

    def _detokenize(self, request: Request, response: Response) -> None:
        values = check_fields(self._body(request), DETOKENIZE_FIELDS, ("tokens",))
        self._reader.check_model(values.get("model"))
        self._send(response, 200, {"prompt": self._tokenizer.decode(values["tokens"])})

    def _sleep(self, _request: Request, response: Response) -> None:
        self.engine.sleep()
        response.whole(200, [(b"content-length", b"0"), _VARY], b"")

    def _wake(self, _request: Request, response: Response) -> None:
        self.engine.wake()
        response.whole(200, [(b"content-length", b"0"), _VARY], b"")

    def _is_sleeping(self, _request: Request, response: Response) -> None:
        self._send(response, 200, {"is_sleeping": self.engine.asleep})

    def _reset_prefix_cache(self, _request: Request, response: Response) -> None:
        self.engine.pool.forget()
        response.whole(200, [(b"content-length", b"0"), _VARY], b"")
