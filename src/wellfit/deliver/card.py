"""What goes with exported weights: facts for programs, and a model card for people, in the form that model hubs read.

Everything is told from the run's folder: what was trained on what, its scores beside the yardsticks, what the doctor found,
the recipe. Nothing is judged here and nothing is added, no licence and no intended use; and places on the machine that
trained (the paths of data and weights) are cut down to the names of files. How to use the files is a program that runs as it
stands, without wellfit.

    >>> print(card(run, facts(Predictor.of(run), graph, "onnx"), "onnx"))
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wellfit import __version__
from wellfit.data.tokens import SPECIAL
from wellfit.deliver import usage
from wellfit.deliver.graph import SHORTEST, Graph, Measured
from wellfit.deliver.predict import Predictor
from wellfit.events import Ended, Evaluated, Noted, Started, Vitals
from wellfit.recipe import Recipe
from wellfit.report import words
from wellfit.run import Run

LIBRARIES = {
    "safetensors": "wellfit", "peft": "peft", "huggingface": "transformers", "onnx": "onnx", "torch-export": "pytorch",
}  # fmt: skip
PIPELINES = {  # of the hub, by task; what one text is made into has none
    "image-classification": "image-classification",
    "tabular-classification": "tabular-classification",
    "tabular-regression": "tabular-regression",
    "text-classification": "text-classification",
    "text-generation": "text-generation",
    "sentence-embeddings": "sentence-similarity",
    "token-classification": "token-classification",
    "forecasting": "time-series-forecasting",
    "object-detection": "object-detection",
}
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}


# ---- for programs


def facts(predictor: Predictor, network: Graph | None, format: str) -> dict[str, Any]:
    """Plain data: the names and shapes of inputs and outputs, and the run's record, by which new inputs are made.

    Of tokens that the `tokenizers` library cuts, the file tokenizer.json has what the record holds.
    """
    record = {name: value for name, value in predictor.record.items() if name not in ("fresh", "config", "reading")}
    told: dict[str, Any] = {"made_by": f"wellfit {__version__}", "format": format}
    if network is not None and format in FILES:
        told |= {
            "file": FILES[format],
            "inputs": [part.as_dict() for part in network.inputs],
            "outputs": [part.as_dict() for part in network.outputs],
            "any_length": {"batch": [1, None]} | {name: [SHORTEST, most] for name, most in network.most.items()},
        }
    if "input" in record:
        told["pixels"] = _pixels(predictor)
    if "tokens" in record:
        tokens = record["tokens"]
        kept = {name: value for name, value in tokens.items() if name != "pairs"}
        record["tokens"] = kept | ({"file": "tokenizer.json"} if tokens.get("pairs") else {})
    if "tokens" in record or "words" in record:
        told["special"] = {symbol: number for number, symbol in enumerate(SPECIAL)}
    return told | record


def _pixels(predictor: Predictor) -> dict[str, Any]:
    """How a picture becomes an input, and what the network itself does to it first."""
    standardize: Any = predictor.model.standardize
    channels, height, width = predictor.record["input"]
    return {
        "order": "channel, height, width", "colours": "grey" if channels == 1 else "red, green, blue",
        "range": [0, predictor.record.get("brightest", 255)],
        "height": height, "width": width, "resize": "to cover the size, bilinear; what is over is cut off at both ends",
        "normalisation": "within the network", "mean": standardize.mean.flatten().tolist(),
        "std": standardize.std.flatten().tolist(),
    }  # fmt: skip


# ---- for people


def card(run: Run, told: Mapping[str, Any], format: str, measured: Measured | None = None) -> str:
    """The model card: YAML for the hub, then Markdown."""
    recipe = _without_places(run.recipe)
    events = run.events()
    parts = [
        f"# {_plain(recipe.name)}",
        _first_paragraph(recipe, events),
        _section("Scores", _scores(recipe, events)),
        _section("How to use it", _how(run, told, format)),
        _section("Inputs and outputs", _ends(told)),
        _section("Parity", _parity(measured, format)),
        _section("Known limits", _listed(_limits(recipe, run, events, told))),
        _section("Findings that are open", _findings(run)),
        _section("How it was trained", _trained(recipe, events)),
        _section("Notes of the run", _listed([_plain(event.text) for event in events if isinstance(event, Noted)])),
        _section("Environment", _environment(run)),
        f"Written by wellfit {__version__} from the run `{_plain(run.folder.resolve().name)}`.",
    ]
    body = "\n\n".join(part for part in parts if part)
    head = yaml.safe_dump(_head(recipe, run, events, format), sort_keys=False, allow_unicode=True, width=120)
    return _cut(f"---\n{head}---\n\n{body}\n", run)


def _head(recipe: Recipe, run: Run, events: Sequence[Any], format: str) -> dict[str, Any]:
    task = str(run.task.get("task", recipe.task))
    scored = _scored(recipe, events)
    kind = recipe.model.kind if recipe.model is not None else ""
    head: dict[str, Any] = {"library_name": LIBRARIES[format]}
    if task in PIPELINES:
        head["pipeline_tag"] = PIPELINES[task]
    head["tags"] = list(dict.fromkeys([tag for tag in ("wellfit", task, kind, format) if tag]))
    name = str(getattr(recipe.model, "name", "") or "")
    if kind == "pretrained" and name.count("/") == 1 and not Path(name).is_dir() and not Path(name).is_absolute():
        head["base_model"] = name
    if recipe.data.source.startswith("hf:"):
        head["datasets"] = [recipe.data.source.removeprefix("hf:").split(":")[0]]
    names = list(dict.fromkeys(name for event in scored for name in event.metrics if name != "loss"))
    if names:
        head["metrics"] = names
    results = [
        {
            "task": {"type": PIPELINES.get(task, task)},
            "dataset": {"name": recipe.data.source, "type": recipe.data.source, "split": _split(event.split)},
            "metrics": [{"type": name, "value": round(value, 6)} for name, value in event.metrics.items() if _is_number(value)],
        }
        for event in scored
    ]  # fmt: skip
    if results:
        head["model-index"] = [{"name": recipe.name, "results": results}]
    return head


def _first_paragraph(recipe: Recipe, events: Sequence[Any]) -> str:
    sentences = words.summary(recipe, events)
    return " ".join(_plain(sentence) for sentence in sentences)


def _scored(recipe: Recipe, events: Sequence[Any]) -> list[Evaluated]:
    """The model's scores on validation samples, at the best step, and on test samples."""
    best = words.best_step(recipe, events)
    found: list[Evaluated] = []
    for split in ("valid", "test"):
        scored = words.evaluations(events, split)
        found += ([event for event in scored if event.step == best] or scored)[-1:]
    return found


def _scores(recipe: Recipe, events: Sequence[Any]) -> str:
    """A table, the yardsticks beside the model, with how many samples each split has."""
    scored = _scored(recipe, events)
    rivals = {(e.of, e.split): e for e in events if isinstance(e, Evaluated) and e.of != "model"}
    shown = [*scored, *rivals.values()]
    if not shown:
        return "Nothing was scored on held-out data."
    started = words.last(events, Started)
    counts = {"valid": started.valid_samples if started else 0, "test": max((e.samples for e in scored), default=0)}

    def head(event: Evaluated) -> str:
        count = f", {counts[event.split]:,} samples" if counts.get(event.split) else ""
        return f"{_plain(event.of)} ({_split(event.split)}{count})"

    names = list(dict.fromkeys(name for event in shown for name in event.metrics))
    rows = [
        [words.plain(name), *(words.amount(name, e.metrics[name]) if name in e.metrics else "–" for e in shown)]
        for name in names
    ]
    return _table(["", *map(head, shown)], rows)


def _how(run: Run, told: Mapping[str, Any], format: str) -> str:
    program = usage.program(run, told, format)
    needs = ", ".join(f"`{package}`" for package in usage.needs(run, told, format))
    return f"In the folder of these files, with {needs}:\n\n```python\n{program}```"


def _ends(told: Mapping[str, Any]) -> str:
    """The inputs and outputs of a graph; what makes them is in preprocessing.json."""
    if "inputs" not in told:
        return ""
    rows = [
        [way, f"`{part['name']}`", part["dtype"], f"[{', '.join(map(str, part['shape']))}]", part["what"]]
        for way, parts in (("in", told["inputs"]), ("out", told["outputs"]))
        for part in parts
    ]
    lengths = [f"`{n}` from {low} to {high:,}" for n, (low, high) in told["any_length"].items() if high is not None]
    sides = "`batch` may be of any length" + (f", {' and '.join(lengths)}" if lengths else "")
    return f"{_table(['', 'name', 'type', 'shape', 'what'], rows)}\n\n{sides}. How they are made and read is in `preprocessing.json`."


def _parity(measured: Measured | None, format: str) -> str:
    if measured is None:
        return ""
    runner = "onnxruntime" if format == "onnx" else "torch.export"
    return (
        f"Computed with {runner}, the outputs differ from those of the run's own network by at most {measured.apart:.1e} (numbers above 1 "
        f"relative to their size), over batches of {', '.join(map(str, measured.sizes))}: {measured.on}."
    )


def _limits(recipe: Recipe, run: Run, events: Sequence[Any], told: Mapping[str, Any]) -> list[str]:
    """What the run's data says of where the model ends."""
    started, ended = words.last(events, Started), words.last(events, Ended)
    found = []
    if ended is None or ended.reason == "interrupted":
        found.append("The training did not come to its end.")
    if started is not None:
        found.append(
            f"It has seen {started.train_samples:,} training samples and no others; {_spread_over(run, events)}"
        )
    scored = _scored(recipe, events)
    if scored and all(event.split == "valid" for event in scored):
        found.append(
            "Its scores are of the validation samples, which also chose the weights, so they flatter it a little."
        )
    if "pixels" in told:
        pixels = told["pixels"]
        found.append(
            f"Pictures become {pixels['width']} × {pixels['height']} pixels, {pixels['colours']}; what is smaller than that is lost."
        )
    if "context" in told:
        unit = "words" if "words" in told else "tokens"
        found.append(f"Of a text it sees at most {told['context']:,} {unit}.")
    if "history" in told:
        found.append(
            f"It looks back {told['history']:,} steps and ahead {told['horizon']:,}, of the step that the series had."
        )
    categories = told.get("columns", {}).get("categories", {}) if isinstance(told.get("columns"), Mapping) else {}
    if categories:
        found.append(f"A value of {', '.join(map(_plain, categories))} that no training row had counts as none.")
    found.append(
        f"One training with one seed ({recipe.training.seed}); how much another seed would change was not measured."
    )
    return found


def _spread_over(run: Run, events: Sequence[Any]) -> str:
    """How the labels are spread over the classes, as far as the run tells."""
    classes = run.task.get("classes") or []
    labels = [event for event in events if isinstance(event, Vitals) and event.about == "labels"]
    if not classes:
        return "what lies outside their range it must guess."
    of = f"they are of {len(classes)} classes, and all else is taken for one of these"
    shares = (
        {int(k[6:]): v for k, v in labels[-1].values.items() if k[:6] == "class " and k[6:].isdigit()} if labels else {}
    )
    if len(shares) != len(classes):
        return f"{of}."
    rare, most = min(shares, key=lambda i: shares[i]), max(shares, key=lambda i: shares[i])
    looked = f"In the batches that were looked at ({labels[-1].values['samples']:,.0f} labels, some of them again)"
    return (
        f"{of}. {looked} {words.percent(shares[most])} are `{_plain(classes[most])}`, the most frequent, and "
        f"{words.percent(shares[rare])} `{_plain(classes[rare])}`, the rarest."
    )


def _findings(run: Run) -> str:
    if not run.recipe.training.doctor:
        return "The doctor was switched off, so nothing was looked for."
    found = [f for f in run.findings() if f["severity"] in ("error", "warning", "advice")]
    if not found:
        return "The doctor watched the training and found nothing."
    return _listed([f"**{_plain(one['id'])}** ({_plain(one['severity'])}): {_plain(one['says'])}" for one in found])


def _trained(recipe: Recipe, events: Sequence[Any]) -> str:
    """The settings that are not defaults, as a recipe that trains."""
    started = words.last(events, Started)
    chosen: dict[str, Any] = {}
    for path, value in recipe.flat().items():
        if recipe.origin(path).by != "default":
            group = chosen
            *parents, last = path.split(".") if not path.startswith("optimizer.learning_rates.") else [path]
            for name in parents:
                group = group.setdefault(name, {})
            group[last] = value
    plain = json.loads(json.dumps(chosen, default=str))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    facts = ""
    if started is not None:
        facts = (
            f"{started.parameters:,} parameters, {started.trainable:,} of them learnt; {started.batch_size} samples a step; on "
            f"{started.device} in {started.precision}"
            + (f", {started.world} processes" if started.world > 1 else "")
            + ".\n\n"
        )
    return f"{facts}```yaml\n{text}```"


def _environment(run: Run) -> str:
    known = run.environment
    packages = known.get("packages", {})
    rows = [["wellfit", known.get("wellfit", "")], ["Python", known.get("python", "")]]
    rows += [[name, version] for name, version in packages.items()]
    rows += [["processor", known.get("processor", "")], ["accelerators", ", ".join(known.get("accelerators", []))]]
    if isinstance(known.get("started"), int | float):
        rows.append(["begun", time.strftime("%Y-%m-%d", time.gmtime(known["started"]))])
    if known.get("data_fingerprint"):
        rows.append(["fingerprint of the training data", known["data_fingerprint"]])
    return _table(["", ""], [[name, _plain(value)] for name, value in rows if value])


# ---- Markdown


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _plain(text: Any) -> str:
    """A name or sentence from data as text alone: on one line, and neither HTML, a link, nor a cell's end."""
    line = " ".join(str(text).split())
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("](", "]&#40;")):
        line = line.replace(sign, instead)
    return line


def _split(split: str) -> str:
    return words.SPLITS.get(split, split)


def _is_number(value: float) -> bool:
    return value == value and abs(value) != float("inf")


# ---- places


def _without_places(recipe: Recipe) -> Recipe:
    """The recipe with the names of files where it has their paths."""
    short = {path: Path(value).name for path, value in recipe.flat().items() if _is_place(value)}
    return recipe.override(short) if short else recipe


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "../", "./")))


def _cut(text: str, run: Run) -> str:
    """The text without the folders of the machine that trained."""
    longs = [value for value in run.recipe.flat().values() if _is_place(value)]
    for long in sorted(longs, key=len, reverse=True):
        text = text.replace(long, Path(long).name)
    folder = run.environment.get("folder")
    return text.replace(f"{folder}/", "") if isinstance(folder, str) and len(folder) > 1 else text
