"""A run as a service over HTTP: JSON in, JSON out, requests that come together answered together.

    POST /predict        {"inputs": [...], "choices": {...}} -> {"predictions": [...], "remarks": [...]}
    POST /predict/files  the same for pictures, uploaded as a form (multipart)
    GET  /health         whether it is there
    GET  /metrics        counts and times, as Prometheus reads them
    GET  /openapi.json   what a request and an answer hold, with examples, made from the run's task

What cannot be understood is told in a sentence with 400, 413 or 422, never with a 5xx; 503 says that more wait than there is
room for. It is bound to this machine alone unless a token is asked for. It has no accounts, keeps no inputs, and is meant to
stand behind a proxy that speaks TLS where it is reached from elsewhere.

    >>> serve("runs/first", port=8000)
"""

import asyncio
import contextlib
import hmac
import json
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from wellfit import __version__
from wellfit.deliver import requests
from wellfit.deliver.batching import Answers, Batcher, Overloaded
from wellfit.deliver.predict import Predictor
from wellfit.errors import RecipeError, WellfitError
from wellfit.listening import address, bound, check_token, is_here, needed, turn
from wellfit.run import Run
from wellfit.tasks import image_classification

if TYPE_CHECKING:
    from fastapi import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

APART = ("text-generation", "seq-to-seq")  # a written text must not hang on what was rounded beside it
PICTURES = ("image-classification", "object-detection")
DECODERS = 4  # threads that decode pictures
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # upper ends of the bins of times
TOGETHER = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # and of inputs in a batch
PATHS = ("/", "/health", "/metrics", "/openapi.json", "/predict", "/predict/files")
WHAT = "Serving a run"


@dataclass(frozen=True)
class Limits:
    """How much at once. `batch`: inputs that go through the network together. `wait_ms`: how long a batch waits for more.

    `bytes`: of a request's body. `room`: inputs that may wait; beyond that a request is answered with 503.
    """

    batch: int = 64
    wait_ms: float = 2.0
    bytes: int = 10_000_000
    room: int = 20_000

    def check(self) -> None:
        """Raises RecipeError for what cannot be."""
        for option, value, least in (
            ("--max-batch", self.batch, 1), ("--max-wait-ms", self.wait_ms, 0), ("--max-bytes", self.bytes, 1), ("--max-waiting", self.room, 1),
        ):  # fmt: skip
            if not least <= value < 1e12:
                raise RecipeError(f"`{option}` is {value:g}; it must be at least {least}.")


def serve(
    run: Run | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    told: Callable[[str], None] = print,
) -> None:
    """Serves a run until SIGTERM or SIGINT, then answers what has begun and returns. `told` hears where it is served.

    Raises RunError for what is no run or cannot be served, RecipeError for a host, port or limit that cannot be, MissingExtra
    without FastAPI and uvicorn.
    """
    limits = limits or Limits()
    limits.check()
    check_token(host, token)
    needed("uvicorn", WHAT)
    run = run if isinstance(run, Run) else Run.open(run)
    app = application(run, token=token, limits=limits)
    listens = bound(host, port)
    told(f"{run.folder} is served at {address(listens, host)}; /openapi.json says what it takes. Ctrl-C ends it.")
    turn(app, listens)


def application(run: Run | str | Path, *, token: str | None = None, limits: Limits | None = None) -> Any:
    """The FastAPI application of a run: what `serve` runs. It lives by its own start and end, so it cannot be mounted into another one.

    Raises MissingExtra without FastAPI.
    """
    needed("fastapi", WHAT)
    import fastapi
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import PlainTextResponse
    from fastapi.security import HTTPBearer
    from starlette.exceptions import HTTPException

    limits = limits or Limits()
    run = run if isinstance(run, Run) else Run.open(run)
    predictor = Predictor.of(run)
    service = Service(predictor, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        service.begin()
        try:
            yield
        finally:
            await asyncio.to_thread(service.end)

    app = fastapi.FastAPI(
        title=f"wellfit: {run.recipe.name}", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description=f"A run of the task {predictor.task}.",
    )  # fmt: skip
    asked, answer = requests.request(predictor), requests.answer(predictor.task)
    wrong: dict[int | str, dict[str, Any]] = {
        status: {"model": Wrong, "description": what} for status, what in WRONG.items()
    }
    security = [fastapi.Depends(HTTPBearer(auto_error=False))] if token is not None else []
    columns = requests.names(predictor.record)

    @app.post("/predict", responses={200: {"model": answer}, **wrong}, dependencies=security, summary="Predict")
    async def predict(body: asked) -> fastapi.Response:  # type: ignore[valid-type]
        return _answered(*await service.ask(*requests.given(body)))

    if predictor.task in PICTURES:
        needed("python_multipart", WHAT, "python-multipart")

        @app.post(
            "/predict/files",
            responses={200: {"model": answer}, **wrong},
            dependencies=security,
            summary="Predict of files",
        )
        async def predict_files(files: list[fastapi.UploadFile]) -> fastapi.Response:
            if len(files) > requests.MOST_INPUTS:
                return _wrong(
                    422, f"{len(files):,} files came, and {requests.MOST_INPUTS:,} are taken at once. Send fewer."
                )
            contents = [(await file.read(), str(file.filename)) for file in files]
            pictures = await service.in_thread(lambda: [requests.checked_picture(*one) for one in contents])
            return _answered(*await service.ask(pictures, {}))

    @app.get("/health", summary="Whether it is there")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "task": predictor.task, "run": run.folder.name, "waiting": service.waiting}

    @app.get(
        "/metrics", response_class=PlainTextResponse, dependencies=security, summary="Counts and times for Prometheus"
    )
    async def metrics() -> fastapi.Response:
        return fastapi.Response(service.measures.text(service), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", response_class=PlainTextResponse, include_in_schema=False)
    async def root() -> str:
        body = json.dumps({"inputs": [requests.example(predictor)]})
        shown = body if len(body) <= 2000 else '{"inputs": [...]}'
        return (
            f"A run of the task {predictor.task}. What it takes is told by /openapi.json; for example\n\n"
            f"  curl -H 'Content-Type: application/json' -d {shlex.quote(shown)} .../predict\n"
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Any, error: RequestValidationError | ValidationError) -> fastapi.Response:
        problems = error.errors()
        if problems and problems[0]["type"] == "json_invalid":
            told = problems[0].get("ctx", {}).get("error", "it cannot be read")
            return _wrong(400, f"The body is no JSON: {str(told)[:100]}.")
        return _wrong(422, requests.sentence(problems, columns))

    @app.exception_handler(HTTPException)
    async def refused(_: Any, error: HTTPException) -> fastapi.Response:
        known = {
            404: "There is nothing here; POST to /predict.", 405: "This path is not asked in that way; POST to /predict.",
            400: "The body cannot be read. Send JSON in UTF-8, such as the examples of /openapi.json.",
        }  # fmt: skip
        told = str(error.detail)
        said = told if told.startswith("Too many") else known.get(error.status_code, told)
        return _wrong(error.status_code, said)

    @app.exception_handler(WellfitError)
    async def unfit(_: Any, error: WellfitError) -> fastapi.Response:
        return _wrong(422, str(error))

    @app.exception_handler(Overloaded)
    async def overloaded(*_: Any) -> fastapi.Response:
        told = f"More than {limits.room} inputs are waiting already. Ask again in a second."
        return _wrong(503, told, {"Retry-After": "1"})

    async def at_once(body: bytes) -> fastapi.Response:
        """What `predict` answers. FastAPI's way to it takes longer than the network does for one of many inputs."""
        try:
            return _answered(*await service.ask(*requests.given(asked.model_validate_json(body))))
        except ValidationError as error:
            return await invalid(None, error)
        except WellfitError as error:
            return await unfit(None, error)
        except Overloaded:
            return await overloaded()

    app.add_middleware(Gate, service=service, token=token, limits=limits, at_once=at_once)
    return app


class Service:
    """A network that is asked by many, and what is counted of it."""

    def __init__(self, predictor: Predictor, limits: Limits):
        self.predictor, self.limits, self.measures = predictor, limits, Measures()
        self._batcher: Batcher | None = None
        self._decoders: ThreadPoolExecutor | None = None
        self._decoding, self._ending = 0, False  # pictures that are unpacked, or wait for it

    def begin(self) -> None:
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self._batcher = Batcher(
            lambda inputs, choices: self.predictor(inputs, **choices),
            most=self.limits.batch, wait=self.limits.wait_ms / 1000, room=self.limits.room, apart=self.predictor.task in APART,
        )  # fmt: skip

    def end(self) -> None:
        """Answers what waits, and lets go."""
        self._ending = True
        if self._batcher is not None and self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)  # whoever still waited for these has left
            self._batcher.close()

    @property
    def waiting(self) -> int:
        return self._decoding + (0 if self._batcher is None else self._batcher.waiting)

    @property
    def together(self) -> Mapping[int, int]:
        """Inputs in a batch -> how many such batches there were."""
        return {} if self._batcher is None else dict(self._batcher.counts.together)

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """In one of the threads that decode pictures."""
        assert self._decoders is not None
        return await asyncio.get_running_loop().run_in_executor(self._decoders, call)

    async def ask(self, inputs: Sequence[Any], choices: Mapping[str, Any]) -> Answers:
        """The answers and remarks. Raises WellfitError for inputs that do not fit, Overloaded where too many wait."""
        assert self._batcher is not None
        remarks: dict[str, int] = {}
        if self.predictor.task == "image-classification" and any(isinstance(one, bytes) for one in inputs):
            inputs = await self._unpacked(inputs, remarks)
        answers, more = await self._batcher.ask(inputs, choices)
        return answers, [*(f"{count} pictures {remark}." for remark, count in remarks.items()), *more]

    async def _unpacked(self, inputs: Sequence[Any], remarks: dict[str, int]) -> list[Any]:
        """Pictures as pixels, beside the network's thread, several requests at once."""
        requests.check_together(inputs)
        if self._decoding and self._decoding + len(inputs) > self.limits.room:
            raise Overloaded

        def unpack() -> list[Any]:
            found = []
            for one in inputs:
                if self._ending:
                    raise Overloaded
                found.append(image_classification.decoded(one, self.predictor.record, remarks))
            return found

        self._decoding += len(inputs)
        try:
            return list(await self.in_thread(unpack))
        finally:
            self._decoding -= len(inputs)


# ---- before and behind all that


class Gate:
    """Who may come in, with how much; and how long it took. Plain ASGI, for it costs every request."""

    def __init__(
        self,
        app: Any,
        *,
        service: Service,
        token: str | None,
        limits: Limits,
        at_once: Callable[[bytes], Awaitable["Response"]],
    ):
        self.app, self.measures, self.limits, self.at_once = app, service.measures, limits, at_once
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await refused(scope, receive, sent)
            elif scope["method"] == "POST" and scope["path"] == "/predict":
                await (await self._predicted(receive))(scope, receive, sent)
            else:
                await self.app(scope, self._bounded(receive), sent)
        finally:
            self.measures.add(scope["path"], status, time.perf_counter() - began)

    async def _predicted(self, receive: Receive) -> "Response":
        from starlette.exceptions import HTTPException

        parts, more, bounded = [], True, self._bounded(receive)
        try:
            while more:
                message = await bounded()
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)  # who has left sends no more either
        except HTTPException as error:
            return _wrong(error.status_code, str(error.detail))
        return await self.at_once(b"".join(parts))

    def _refused(self, scope: Scope) -> Any:
        heads = dict(scope["headers"])
        if self.token is not None:
            if scope["path"] != "/health" and not hmac.compare_digest(heads.get(b"authorization", b""), self.token):
                told = "This needs the token that the service was started with, as the header `Authorization: Bearer TOKEN`."
                return _wrong(401, told, {"WWW-Authenticate": "Bearer"})
        elif not is_here(heads.get(b"host", b"").decode("latin-1")):
            # A page of another site that a browser here shows could otherwise have its name lead to this machine.
            return _wrong(421, "This service answers to the names of this machine alone, such as 127.0.0.1.")
        length = heads.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.bytes:
            return _wrong(413, self._too_large)
        return None

    @property
    def _too_large(self) -> str:
        return f"The body has more than {self.limits.bytes:,} bytes, which is the most that is taken. Send fewer inputs at once."

    def _bounded(self, receive: Receive) -> Receive:
        """The body is counted as it comes, for it need not have said how long it is."""
        from starlette.exceptions import HTTPException

        count = 0

        async def bounded() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.limits.bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded


class Measures:
    """Counts since the start, told in Prometheus' text format."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.bins = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0

    def add(self, path: str, status: int, seconds: float) -> None:
        key = (path if path in PATHS else "other", status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if key[0].startswith("/predict"):
            self.seconds += seconds
            self.bins[next((i for i, end in enumerate(SECONDS) if seconds <= end), len(SECONDS))] += 1

    def text(self, service: Service) -> str:
        lines = ["# HELP wellfit_requests_total Requests by path and status.", "# TYPE wellfit_requests_total counter"]
        lines += [
            f'wellfit_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(self.requests.items())
        ]
        lines += _histogram("wellfit_request_seconds", "Time to answer a prediction.", SECONDS, self.bins, self.seconds)
        together = service.together
        bins = [0] * (len(TOGETHER) + 1)
        for size, count in together.items():
            bins[next((i for i, end in enumerate(TOGETHER) if size <= end), len(TOGETHER))] += count
        inputs = sum(size * count for size, count in together.items())
        lines += _histogram(
            "wellfit_batch_inputs", "Inputs that went through the network together.", TOGETHER, bins, inputs
        )
        lines += [
            "# HELP wellfit_waiting_inputs Inputs that wait for the network.",
            "# TYPE wellfit_waiting_inputs gauge",
        ]
        return "\n".join([*lines, f"wellfit_waiting_inputs {service.waiting}", ""])


def _histogram(name: str, told: str, ends: Sequence[float], bins: Sequence[int], total: float) -> list[str]:
    lines, below = [f"# HELP {name} {told}", f"# TYPE {name} histogram"], 0
    for end, count in zip([*map(str, ends), "+Inf"], bins, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{end}"}} {below}')
    return [*lines, f"{name}_sum {total:g}", f"{name}_count {below}"]


# ---- inside


class Wrong(BaseModel):
    """What is wrong, in a sentence."""

    error: str


WRONG = {
    400: "The body is no JSON.", 401: "The token is lacking or wrong.", 413: "The body is too large.",
    422: "The inputs do not fit the task.", 503: "More wait than there is room for.",
}  # fmt: skip


def _answered(answers: list[Any], remarks: list[str]) -> "Response":
    from fastapi import Response

    try:
        body = json.dumps({"predictions": answers, "remarks": remarks}, allow_nan=False)
    except ValueError:  # so far from the training's data that nothing finite comes out
        return _wrong(
            422,
            "The model's answer to these inputs is no finite number. They are too far from what it was trained on.",
        )
    return Response(body, media_type="application/json")


def _wrong(status: int, told: str, heads: Mapping[str, str] | None = None) -> "Response":
    from fastapi import Response

    return Response(json.dumps({"error": told}), status, dict(heads or {}), media_type="application/json")
