"""A recipe: all that decides a run, as frozen, validated data. No code hides in it.

The fields are declared in `settings/`; here is how recipes are loaded, changed, compared and written. A value of `None`
means "derived": `defaults.resolve` fills it in from the data, the model and the machine, and says why. Each value knows
who set it (`Recipe.origin`).

    >>> recipe = Recipe.load("digits").override(["optimizer.learning_rate=3e-4", "training.epochs=5"])
    >>> recipe.origin("training.epochs").by
    'user'
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from wellfit.errors import RecipeError
from wellfit.settings import (
    MLP,
    MODELS,
    Augment,
    Checkpoints,
    ConvNet,
    Data,
    Evaluation,
    Finetune,
    GivenModel,
    Hardware,
    Loss,
    Model,
    Optimizer,
    Origin,
    Part,
    Recovery,
    Schedule,
    Task,
    Training,
    Who,
    setting,
)

__all__ = [
    "MLP",
    "MODELS",
    "Augment",
    "Change",
    "Checkpoints",
    "ConvNet",
    "Data",
    "Evaluation",
    "Finetune",
    "GivenModel",
    "Hardware",
    "Loss",
    "Model",
    "Optimizer",
    "Origin",
    "Part",
    "Recipe",
    "Recovery",
    "Schedule",
    "Task",
    "Training",
    "Who",
    "assignment",
    "describe",
    "nearest",
    "paths",
    "presets",
    "setting",
]


class Change(NamedTuple):
    """One difference between two recipes."""

    path: str
    before: Any
    after: Any


class Recipe(Part):
    """All that decides a run."""

    name: str = setting("", "Short name, used for the run's folder.", "Derived from the preset or the data.")
    task: Task | None = setting(None, "What is learnt.", "Derived from the data.")
    data: Data = Field(default_factory=Data, description="What is learnt from.")
    model: Model | None = Field(
        default=None, description="The network.", json_schema_extra={"why": "Derived from the task.", "source": ""}
    )
    finetune: Finetune = Field(default_factory=Finetune, description="How trained weights go on learning.")
    loss: Loss = Field(default_factory=Loss, description="What is minimised.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="How weights follow gradients.")
    schedule: Schedule = Field(default_factory=Schedule, description="The learning rate over time.")
    training: Training = Field(default_factory=Training, description="The loop.")
    recovery: Recovery = Field(
        default_factory=Recovery, description="What the run does by itself when memory runs out or numbers break."
    )
    hardware: Hardware = Field(default_factory=Hardware, description="Where and in which precision.")
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="Held-out scores, the best checkpoint, early stopping."
    )
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="What survives a crash.")
    origins: dict[str, Origin] = Field(default_factory=dict, description="Who set each value that is not a default.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        training, model = self.training, self.model
        if training.epochs is not None and training.steps is not None:
            raise ValueError("training.epochs and training.steps are both set; keep one and set the other to null")
        milestones = self.schedule.milestones
        if list(milestones) != sorted(milestones) or any(not 0 < share < 1 for share in milestones):
            raise ValueError(
                f"schedule.milestones must rise and be shares of all steps, between 0 and 1, not {milestones}"
            )
        if isinstance(model, MLP) and any(width < 1 for width in model.widths):
            raise ValueError(f"model.widths must all be at least 1, not {model.widths}")
        if isinstance(model, ConvNet) and (not model.channels or any(width < 1 for width in model.channels)):
            raise ValueError(f"model.channels must name at least one block and all be at least 1, not {model.channels}")
        return self

    # ---- where it comes from

    @classmethod
    def load(cls, source: str | Path) -> "Recipe":
        """The recipe of a preset (`digits`), of a YAML file, or of a run folder.

        Raises RecipeError if there is none, or if it does not read as a recipe.
        """
        path = Path(source)
        if path.is_dir():
            path = path / "recipe.yaml"
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RecipeError(f"Cannot read the recipe {path}: {error}.") from None
            return cls.parse(text, where=str(path), by="user")
        if str(source) in presets():
            return cls.parse(presets()[str(source)].read_text(encoding="utf-8"), where=f"preset {source}", by="preset")
        near = nearest(str(source), presets())
        raise RecipeError(
            f"There is no recipe file and no preset called {str(source)!r}.{near} "
            f"The presets are {', '.join(sorted(presets()))}; a recipe file is YAML."
        )

    @classmethod
    def parse(cls, text: str, *, where: str = "recipe", by: Who = "user") -> "Recipe":
        """The recipe written in YAML text; values in it are marked as set `by`, unless the text says otherwise."""
        try:
            values = yaml.load(text, _Loader) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(values, dict):
            raise RecipeError(
                f"{where} holds a {type(values).__name__}; a recipe is a mapping such as `training: {{epochs: 5}}`."
            )
        recorded = "origins" in values
        recipe = _validated(cls, values, where)
        origins = recipe.origins or {path: Origin(by=by, why=f"written in {where}") for path, _ in _leaves(values)}
        return recipe if recorded else recipe.model_copy(update={"origins": origins})

    # ---- other recipes from this one

    def override(self, changes: Mapping[str, Any] | Iterable[str], *, by: Who = "user", why: str = "") -> "Recipe":
        """A new recipe with dotted paths set: `{"training.epochs": 5}` or `["training.epochs=5"]`.

        Changing a `kind` (of the model, say) resets the rest of that group to the defaults of the new kind.
        Raises RecipeError for a path that does not exist (naming the nearest one that does) or a value out of range.
        """
        pairs = list(changes.items()) if isinstance(changes, Mapping) else [assignment(text) for text in changes]
        values, origins = self.values(), dict(self.origins)
        for path, value in pairs:
            _put(values, origins, path, value)
            if isinstance(value, BaseModel):
                value = value.model_dump()
            stamped = (
                [f"{path}.{inner}" for inner, _ in _leaves(value)] if isinstance(value, dict) and value else [path]
            )
            origins |= {name: Origin(by=by, why=why) for name in stamped}
        values["origins"] = {path: origin.model_dump() for path, origin in origins.items()}
        return _validated(type(self), values, "the recipe")

    def origin(self, path: str) -> Origin:
        """Who set the value at a dotted path, and why."""
        return self.origins.get(path) or Origin(by="default", why=describe(path, self).get("why", ""))

    def values(self) -> dict[str, Any]:
        """All values as nested plain data, without the origins."""
        return self.model_dump(exclude={"origins"})

    def unresolved(self) -> "Recipe":
        """The same choices, with everything that was derived open again: what to change before resolving anew."""
        values, origins, defaults = self.values(), dict(self.origins), type(self)().flat()
        for path in [path for path, origin in origins.items() if origin.by == "derived"]:
            group, _, last = path.rpartition(".")
            holder = values
            for name in group.split(".") if group else []:
                holder = holder.get(name) or {}
            if path.startswith("model.") and self.origin("model.kind").by == "derived":
                values["model"] = None
            elif group == "model" and last in holder:
                holder[last] = MODELS[holder["kind"]].model_fields[last].default
            elif last in holder:
                holder[last] = defaults.get(path)
            del origins[path]
        return _validated(
            type(self), {**values, "origins": {p: o.model_dump() for p, o in origins.items()}}, "the recipe"
        )

    def flat(self) -> dict[str, Any]:
        """All values by dotted path."""
        return dict(_leaves(self.values()))

    def diff(self, other: "Recipe") -> list[Change]:
        """What is different in `other`, by dotted path; who set it does not count."""
        mine, theirs = self.flat(), other.flat()
        return [
            Change(path, mine.get(path), theirs.get(path))
            for path in mine | theirs
            if mine.get(path) != theirs.get(path)
        ]

    def dump(self) -> str:
        """The recipe as YAML, with the origin of every value that is not a default. `parse` reads it back."""
        values = json.loads(self.model_dump_json(exclude={"origins"}))
        origins = {path: origin.model_dump() for path, origin in sorted(self.origins.items())}
        return yaml.safe_dump({**values, "origins": origins}, sort_keys=False, allow_unicode=True, width=120)

    def _repr_html_(self) -> str:
        import wellfit

        return wellfit.html(self)


def presets() -> dict[str, Path]:
    """The recipes that come with wellfit, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def describe(path: str, recipe: Recipe | None = None) -> dict[str, str]:
    """What is declared of the field at a dotted path: `what`, `why`, `source`, `choices`. Empty for a key of a free mapping."""
    part: type[BaseModel] = Recipe
    field = None
    names = path.split(".")
    for i, name in enumerate(names):
        if name not in part.model_fields:
            return {}
        field = part.model_fields[name]
        if name == "model" and i == 0:
            kinds = [type(recipe.model)] if recipe is not None and recipe.model is not None else [*MODELS.values()]
            part = next((kind for kind in kinds if names[1:2] and names[1] in kind.model_fields), kinds[0])
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            part = field.annotation
    extra = field.json_schema_extra if field is not None and isinstance(field.json_schema_extra, dict) else {}
    return {
        "what": (field.description if field else "") or ("Which network." if path == "model.kind" else ""),
        "why": str(extra.get("why", "")),
        "source": str(extra.get("source", "")),
        "choices": ", ".join(MODELS if path == "model.kind" else _words(field.annotation) if field is not None else ()),
    }


def _words(annotation: Any) -> list[str]:
    """The words that an annotation allows, where it allows nothing else but None."""
    parts = [annotation] if get_origin(annotation) is Literal else [*get_args(annotation)]
    parts = [part for part in parts if part is not type(None)]
    if any(get_origin(part) is not Literal for part in parts):
        return []
    return [str(word) for part in parts for word in get_args(part)]


def paths() -> list[str]:
    """Every dotted path that a recipe can have, groups included."""
    return sorted(set(_paths(Recipe, "")) - {"origins"})


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean X?`, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.55)
    return f" Did you mean `{close[0]}`?" if close else ""


# ---- inside


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean the number (YAML 1.2 does too)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def assignment(text: str) -> tuple[str, Any]:
    """`a.b=c` as path and value. Raises RecipeError if it is none."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"`{text}` is not an assignment; write it as `optimizer.learning_rate=3e-4`.")
    try:
        return path.strip(), yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise RecipeError(f"The value in `{text}` is not valid YAML; quote it if it holds `:`, `[` or `{{`.") from None


def _put(values: dict[str, Any], origins: dict[str, Origin], path: str, value: Any) -> None:
    """Sets the dotted path in nested values; a new `kind` resets its group."""
    if path == "origins" or path.startswith("origins."):
        raise RecipeError("`origins` is kept by wellfit itself and cannot be set.")
    *parents, last = path.split(".")
    if parents[:2] == ["optimizer", "learning_rates"]:  # its keys are patterns, which hold dots
        parents, last = parents[:2], ".".join([*parents[2:], last])
    group = values
    for name in parents:
        if name in group and group[name] is None:
            group[name] = {}
        if name not in group or not isinstance(group[name], dict):
            raise RecipeError(
                f"`{path}` is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields."
            )
        group = group[name]
    if parents == ["model"] and last == "kind" and group.get("kind") != value:
        group.clear()
        for stale in [known for known in origins if known.startswith("model.")]:
            del origins[stale]
    elif parents != ["optimizer", "learning_rates"] and last not in group and f"{path}" not in paths():
        raise RecipeError(f"`{path}` is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields.")
    if isinstance(value, str) and value and isinstance(group.get(last), tuple):
        value = (value,)  # one word where a list of them is wanted
    group[last] = value
    if path in _INSTEAD and value is not None:  # one says the same thing as the other
        group[_INSTEAD[path]] = None
        origins.pop(f"{parents[0]}.{_INSTEAD[path]}", None)


_INSTEAD = {"training.epochs": "steps", "training.steps": "epochs"}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name == "origins" and not prefix:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _paths(part: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in part.model_fields.items():
        yield f"{prefix}{name}"
        for inner in MODELS.values() if name == "model" else [field.annotation]:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _paths(inner, f"{prefix}{name}.")


def _validated(kind: type[Recipe], values: dict[str, Any], where: str) -> Recipe:
    """Validation whose errors a person can read."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(" ".join(_sentence(dict(problem), where) for problem in error.errors()[:3])) from None


def _sentence(problem: dict[str, Any], where: str) -> str:
    parts = [str(part) for part in problem["loc"]]
    chosen = ""
    if parts[:1] == ["model"] and len(parts) > 1 and parts[1] in MODELS:
        chosen = parts.pop(1)  # pydantic names the chosen kind, which is not part of the path
    parts = [part for part in parts if not part.startswith(("literal[", "tuple[", "constrained-", "function-"))]
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden" and chosen and path in paths():
        others = [kind for kind, fields in MODELS.items() if parts[-1] in fields.model_fields]
        return f"`{path}` (in {where}) does not belong to `model.kind={chosen}`; it does to {', '.join(others)}."
    if problem["type"] == "extra_forbidden":
        return f"`{path}` (in {where}) is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields."
    if problem["type"] == "union_tag_invalid":
        given = problem["input"].get("kind") if isinstance(problem["input"], dict) else problem["input"]
        return f"`model.kind` is {given!r} (in {where}); it can be {', '.join(MODELS)}.{nearest(str(given), MODELS)}"
    if problem["type"] == "union_tag_not_found":
        return f"`model` (in {where}) needs a `kind`: one of {', '.join(MODELS)}."
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        allowed = [
            word.strip("'") for word in message.removeprefix("Input should be ").replace(" or ", ", ").split(", ")
        ]
        return f"`{path}` is {problem['input']!r} (in {where}); it can be {', '.join(allowed)}.{nearest(str(problem['input']), allowed)}"
    if not path:
        return f"{message[0].upper()}{message[1:]} (in {where})."
    return f"`{path}` is {problem['input']!r} (in {where}): {message[0].lower()}{message[1:]}."
