"""MLflow: a run of an experiment, through MLflow's client. Settings are parameters, rows metrics, findings and the end tags.

The run is found again by a tag, so one that goes on, or is told a second time, is the same run; a metric's steps that have arrived are not
sent again. MLflow can delete no metric, so where recovery went back by itself and took other steps, both stay. Times are the journal's.
A folder is an SQLite database in it. MLflow reports its use to its makers unless told otherwise; here it is told otherwise. What is used
is the client, `mlflow-skinny`; the pages to look at come with `pip install mlflow`.

$ mlflow server --backend-store-uri sqlite:///tracked/mlflow.db
"""

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from wellfit.integrations.trackers.telling import Ending, Story, finding_told, setting

T = TypeVar("T")
ID = "wellfit.id"
# What one request, a name, a parameter and a tag may hold, at most.
METRICS, OTHERS, KEY, VALUE, TAG = 900, 90, 250, 6000, 5000
DEFAULTS = {  # a server that is gone is noticed in seconds; what you have set yourself counts
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class MLflow:
    """One run of an experiment on a server, or in a database of a folder."""

    def __init__(self, place: str, experiment: str):
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient, entities
        from mlflow.tracking import get_tracking_uri

        self.artifacts = (Path(place).absolute() / "artifacts").as_uri() if _is_folder(place) else None
        self.uri = _uri(place) or str(get_tracking_uri())
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "wellfit"
        self.where = ""
        self._client: Any = MlflowClient(tracking_uri=self.uri)
        self._entities: Any = entities
        self._run = ""
        self._arrived: dict[str, set[int]] = {}  # metric -> its steps
        self._waiting: list[Any] = []
        self._notes: list[str] = []
        self._told = 0  # notes of which the server knows

    def begin(self, story: Story) -> None:
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{ID}` = '{story.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            for name in found[0].data.metrics:
                self._arrived[name] = {metric.step for metric in self._client.get_metric_history(self._run, name)}
            self._client.set_terminated(self._run, "RUNNING", end_time=0)
        else:
            began = round(1000 * story.time) if story.time else None
            made = self._client.create_run(experiment, start_time=began, tags={ID: story.id}, run_name=story.name)
            self._run = made.info.run_id
        known = found[0].data.params if found else {}
        chosen = {_name(path): str(setting(value, VALUE)) for path, value in story.recipe.items()}
        self._log(params=[self._entities.Param(k, v) for k, v in chosen.items() if k not in known])
        self._log(tags=[self._entities.RunTag(f"wellfit.{name}", str(value)) for name, value in story.facts.items()])
        site = self.uri.rstrip("/") if self.uri.startswith("http") else f"mlflow server --backend-store-uri {self.uri}"
        page = f"/#/experiments/{experiment}/runs/{self._run}"
        self.where = site + page if self.uri.startswith("http") else f"{site}  (experiment {self.experiment})"

    def row(self, step: int, time: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            key = _name(name)
            steps = self._arrived.setdefault(key, set())
            if step not in steps:
                steps.add(step)
                self._waiting.append(self._entities.Metric(key, value, round(1000 * time), step))
        if len(self._waiting) >= METRICS:
            self.flush()

    def text(self, step: int, time: float, name: str, text: str) -> None:
        del step, time
        if name == "notes":
            self._notes.append(text)

    def back_to(self, step: int, time: float) -> None:
        del time
        for steps in self._arrived.values():
            steps -= {later for later in steps if later > step}

    def flush(self) -> None:
        self._log(metrics=self._waiting)
        self._waiting = []
        if self._told < len(self._notes):
            self._told = len(self._notes)
            self._describe("\n\n".join(self._notes))

    def end(self, ending: Ending) -> None:
        self.row(ending.step, ending.time, ending.numbers)
        self.flush()
        tags = {f"finding.{finding['id']}": finding_told(finding)[:TAG] for finding in ending.findings}
        tags["wellfit.end"] = ending.reason or "not ended"
        if ending.best_step is not None:
            tags["wellfit.best_step"] = str(ending.best_step)
        self._log(tags=[self._entities.RunTag(_name(name), value) for name, value in tags.items()])
        self._describe(ending.text)
        status = {"loss-not-finite": "FAILED", "interrupted": "KILLED", "": "KILLED"}.get(ending.reason, "FINISHED")
        self._client.set_terminated(self._run, status, end_time=round(1000 * ending.time))

    def _experiment(self) -> str:
        """The experiment's id; it is made where there is none."""
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self.experiment, self.artifacts))
            except Exception:  # another run has just made it
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _log(self, metrics: Iterable[Any] = (), params: Iterable[Any] = (), tags: Iterable[Any] = ()) -> None:
        """In requests that are not too large."""
        for some in _cut(metrics, METRICS):
            self._client.log_batch(self._run, metrics=some)
        for some in _cut(params, OTHERS):
            self._client.log_batch(self._run, params=some)
        for some in _cut(tags, OTHERS):
            self._client.log_batch(self._run, tags=some)

    def _describe(self, text: str) -> None:
        self._client.set_tag(self._run, "mlflow.note.content", text[:TAG])


def _uri(place: str) -> str:
    """A tracking URI; a folder is a database in it. Empty where nothing is said, and MLflow's own setting counts."""
    if not _is_folder(place):
        return place
    folder = Path(place).absolute()
    if any(folder.glob("*/meta.yaml")):  # files, as older versions kept them
        return folder.as_uri()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def _is_folder(place: str) -> bool:
    return bool(place) and "://" not in place and place not in ("databricks", "uc")


def _name(name: str) -> str:
    """A name that MLflow takes: letters, digits, `_-. :/`, no empty part. One that had to be changed ends with its checksum."""
    parts = [re.sub(r"[^\w.\- :]", "_", part, flags=re.ASCII).strip(". ") or "_" for part in name.split("/")]
    taken = "/".join(parts)
    if taken == name and len(name) <= KEY:
        return name
    return f"{taken[: KEY - 9]}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


def _cut(things: Iterable[T], most: int) -> Iterator[list[T]]:
    left = iter(things)
    while some := list(islice(left, most)):
        yield some
