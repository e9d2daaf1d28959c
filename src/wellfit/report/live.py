"""The live page: all runs of a folder in a browser, growing while one looks. `wellfit ui runs/`.

A few read-only answers over HTTP on this machine's own address. Run folders are read, and nothing in them is served as it is: pages are
made here from what their numbers and texts say, and a file that leads out of the folder is not followed. No accounts, no telemetry,
nothing is written. Whoever comes from another machine has to know a token.

    GET /                  the page
    GET /api/runs          how each run stands
    GET /api/runs/NAME     the curves and findings of one
    GET /report/NAME       its report, made on the spot

    >>> look("runs", port=8017)
"""

import base64
import hashlib
import hmac
import json
import math
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wellfit import untrusted
from wellfit.errors import RunError, WellfitError
from wellfit.events import Event
from wellfit.glance import Glance, glance
from wellfit.listening import address, bound, check_token, is_here, needed, turn
from wellfit.recipe import Recipe
from wellfit.report import charts, words
from wellfit.report.page import page
from wellfit.report.together import CURE, TREATMENT
from wellfit.run import ENVIRONMENT, EVENTS, FINDINGS, MEMORY, RECIPE, REVIEW, TASK, Heard, Run, is_held, runs

PARTS = (RECIPE, ENVIRONMENT, TASK, EVENTS, FINDINGS, REVIEW, MEMORY, TREATMENT, f"{TREATMENT}/{CURE}")
USUAL = Path("runs")
PATIENCE = 0.15  # seconds that looking at runs may take before what is known is told
OVER = ("finished", "early-stopping", "loss-not-finite", "leads out")
KEPT = 64  # runs of which the events are kept
COOKIE = "wellfit-token"
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline' 'unsafe-eval'"
COLUMNS = (("name", "run"), ("state", "state"), ("step", "step"), ("score", "score"), ("findings", "findings"), ("began", "began"))  # fmt: skip


def look(
    root: str | Path = USUAL,
    *,
    host: str = "127.0.0.1",
    port: int = 8017,
    token: str | None = None,
    told: Callable[[str], None] = print,
) -> None:
    """Answers until SIGTERM or SIGINT. `told` hears where.

    Raises RunError for a folder that is not there, RecipeError for a host or port that cannot be, MissingExtra without the extras `serve` and `charts`.
    """
    check_token(host, token)
    needed("uvicorn", "The live page")
    if not Path(root).is_dir() and Path(root) != USUAL:  # the usual place may come into being while the page is open
        raise RunError(f"There is no folder {root}. Name the one that the runs are in.")
    app = application(root, token=token)
    listens = bound(host, port)
    known = f"/?token={urllib.parse.quote(token, safe='')}" if token is not None else ""
    told(f"The runs of {root} are at {address(listens, host)}{known}. Ctrl-C ends it.")
    turn(app, listens)


def application(root: str | Path = "runs", *, token: str | None = None) -> Any:
    """The FastAPI application behind the page."""
    needed("fastapi", "The live page")
    charts.check()
    import fastapi
    from fastapi import Response

    shelf = Shelf(Path(root))
    threading.Thread(target=shelf.warm, name="first look", daemon=True).start()
    app = fastapi.FastAPI(title="wellfit ui", docs_url=None, redoc_url=None, openapi_url=None)

    def tagged(request: Any, content: bytes, kind: str = "application/json") -> Any:
        """With a name for the content, by which it is not sent twice."""
        tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, media_type=kind, headers={"ETag": tag, "Cache-Control": "no-cache"})

    @app.get("/")
    def root_page(request: fastapi.Request) -> Any:
        answer = Response(shell(shelf.root), media_type="text/html; charset=utf-8")
        if token is not None and request.query_params.get("token"):
            answer.set_cookie(COOKIE, request.query_params["token"], httponly=True, samesite="strict")
        return answer

    @app.get("/vega.js")
    def vega() -> Any:
        packed = base64.b64decode(charts.vega())
        heads = {"Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
        return Response(packed, media_type="text/javascript; charset=utf-8", headers=heads)

    @app.get("/live.js")
    def live() -> Any:
        return Response(charts.script("charts.js", "live.js"), media_type="text/javascript; charset=utf-8")

    @app.get("/api/runs")
    def all_runs(request: fastapi.Request) -> Any:
        rows, whole = shelf.all()
        return tagged(request, _json({"root": str(shelf.root), "runs": rows, "whole": whole}))

    @app.get("/api/runs/{name}")
    def one_run(request: fastapi.Request, name: str) -> Any:
        return tagged(request, shelf.told(name))

    @app.get("/report/{name}")
    def report(name: str) -> Any:
        return Response(
            shelf.report(name), media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORTS}
        )

    @app.exception_handler(WellfitError)
    def unfit(_: Any, error: WellfitError) -> Any:
        return Response(_json({"detail": str(error)}), 404, media_type="application/json")

    @app.middleware("http")
    async def gate(request: fastapi.Request, following: Callable[..., Any]) -> Any:
        if token is None and not is_here(request.headers.get("host", "")):
            return Response("This page answers to the names of this machine alone, such as 127.0.0.1.", 421)
        if token is not None and not _knows(request, token):
            return Response("This needs the token that `wellfit ui` was started with: open the address that it printed.", 401)  # fmt: skip
        answer = await following(request)
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    return app


def shell(root: Path) -> str:
    """The page, which asks for everything else."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    template = Environment(loader=PackageLoader("wellfit", "report"), autoescape=True).get_template("live.html")
    return template.render(root=str(root), style=Markup(charts.script("style.css")), columns=COLUMNS)


class Shelf:
    """The runs of a folder, as far as they have been read. May be asked by several threads."""

    def __init__(self, root: Path):
        self.root = root
        self._lock = threading.Lock()
        self._glances: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._open: dict[str, Followed] = {}

    def all(self) -> tuple[list[dict[str, Any]], bool]:
        """How each run stands, latest first, and whether all have been looked at. What has not changed since is not read again.

        Of hundreds that nobody has asked for before, those are told at once for which there is time; the next call goes on.
        """
        found, ends, whole = runs(self.root), time.monotonic() + PATIENCE, True
        with self._lock:
            before, self._glances = self._glances, {}
            for run in found:
                name = run.folder.name
                sign, kept = _sign(run.folder, (EVENTS, FINDINGS)), before.get(name)
                # That a run is being trained shows in no file.
                if kept is not None and kept[0] == sign and (kept[1]["state"] in OVER or not _is_trained(run.folder)):
                    self._glances[name] = kept
                elif time.monotonic() < ends:
                    seen = glance(run) if _within(run.folder, self.root) else Glance(run.folder, "leads out")
                    self._glances[name] = (sign, _row(seen))
                else:
                    whole = False
                    self._glances[name] = kept or (None, _row(Glance(run.folder, "…")))
            return [row for _, row in self._glances.values()], whole

    def warm(self) -> None:
        """Looks at every run, and makes ready what draws, before anybody asks."""
        while not self.all()[1]:
            time.sleep(0.01)  # whoever asks meanwhile comes first
        charts.vega()

    def told(self, name: str) -> bytes:
        """Curves and findings of a run, as JSON. Raises RunError where there is none."""
        followed = self._followed(name)
        with followed.lock:  # one that takes long is waited for by those alone who ask for it
            return followed.told()

    def report(self, name: str) -> str:
        """A run's report, made from what it holds. Raises RunError where there is none."""
        followed = self._followed(name)
        with followed.lock:
            return page(followed, live=True)

    def _followed(self, name: str) -> "Followed":
        folder = self.root / name
        with self._lock:
            if Path(name).name != name or name.startswith(".") or not _is_run(folder):
                self._open.pop(name, None)
                raise RunError(f"There is no run {name} in {self.root} any more.")
            if not _within(folder, self.root):
                raise RunError(f"{name} holds a file that leads out of {self.root}, which is not followed.")
            followed = self._open.pop(name, None) or Followed(folder)
            self._open[name] = followed  # the latest asked for is the last one to be let go
            while len(self._open) > KEPT:
                self._open.pop(next(iter(self._open)))
            return followed


class Followed(Run):
    """A run whose journal is read as it grows: only what is new. `lock` is held by whoever asks it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.lock = threading.Lock()
        self._heard, self._at, self._left, self._file = Heard(), 0, b"", (0, 0)
        self._recipe: tuple[Any, Recipe] | None = None
        self._told: tuple[Any, bytes] | None = None

    def events(self) -> list[Event]:
        path = self.folder / EVENTS
        try:
            with untrusted.opened(path) as file:
                size, sign = file.seek(0, 2), _file(path)
                if sign != self._file or size < self._at:  # another file: from its beginning
                    self._heard, self._at, self._left, self._file = Heard(), 0, b"", sign
                file.seek(self._at)
                lines = (self._left + file.read(size - self._at)).split(b"\n")
                self._at, self._left = size, lines.pop()
                for line in lines:
                    self._heard.add(line.decode("utf-8", "replace"))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}.") from None
        return self._heard.events()

    @property
    def recipe(self) -> Recipe:
        sign = _sign(self.folder, (RECIPE,))
        if self._recipe is None or self._recipe[0] != sign:
            self._recipe = (sign, super().recipe)
        return self._recipe[1]

    def told(self) -> bytes:
        sign = _sign(self.folder, (RECIPE, EVENTS, FINDINGS))
        if self._told is None or self._told[0] != sign:
            recipe, events, findings = self.recipe, self.events(), self.findings()
            body = charts.charts(recipe, events, findings) | {"headline": words.headline(recipe, events)}
            for pin, finding in zip(body["findings"], findings, strict=True):
                remedies = finding.get("remedies") or [{}]
                pin |= {"says": str(finding["says"]), "remedy": str(remedies[0].get("words", ""))}
            self._told = (sign, _json(body))
        return self._told[1]


# ---- inside


def _is_trained(folder: Path) -> bool:
    try:
        with untrusted.opened(folder / EVENTS) as journal:
            return is_held(journal)
    except OSError:
        return False


def _row(seen: Glance) -> dict[str, Any]:
    """A run as the table shows it. `value` sorts; what is not finite comes last."""
    name = words.told(seen.metrics) if seen.metrics else ""
    value = seen.metrics.get(name)
    return {
        "name": seen.name, "state": seen.state, "step": seen.step, "steps": seen.steps, "began": seen.began,
        "metric": words.plain(name) if name else "",
        "score": words.scored_as(name, value, seen.split) if value is not None else "",
        "value": value if value is not None and math.isfinite(value) else None,
        "findings": {"error": 0, "warning": 0, "advice": 0} | dict(seen.findings),
    }  # fmt: skip


def _is_run(folder: Path) -> bool:
    try:
        return (folder / RECIPE).is_file()
    except (OSError, ValueError):  # a name that is too long
        return False


def _within(folder: Path, root: Path) -> bool:
    """Whether nothing that is read of a run leads elsewhere."""
    try:
        home = folder.resolve()
        return home.is_relative_to(root.resolve()) and all(
            not (folder / part).is_symlink() or (folder / part).resolve().is_relative_to(home) for part in PARTS
        )
    except (OSError, RuntimeError):  # links that lead in a circle
        return False


def _sign(folder: Path, parts: tuple[str, ...]) -> Any:
    return tuple(_file(folder / part, size=True) for part in parts)


def _file(path: Path, size: bool = False) -> Any:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_dev, stat.st_size, stat.st_mtime_ns) if size else (stat.st_ino, stat.st_dev)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _knows(request: Any, token: str) -> bool:
    told = (
        request.query_params.get("token", ""),
        request.cookies.get(COOKIE, ""),
        request.headers.get("authorization", "").removeprefix("Bearer "),
    )
    return any(hmac.compare_digest(one.encode(), token.encode()) for one in told)
