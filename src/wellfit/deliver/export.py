"""What a run learnt, in the files that other libraries read.

    safetensors   model.safetensors: all weights by name, adapters added to them
    peft          adapter_config.json, adapter_model.safetensors: what was learnt beside or before frozen weights, as PEFT has it
    huggingface   config.json, model.safetensors, tokenizer.json: a pretrained language model, adapters added to it

After writing, the files are read again and compared with the run's own network.

>>> export("runs/lora", "adapter/", "peft")
Exported(folder=PosixPath('adapter'), apart=0.0, notes=[...])
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wellfit import finetune
from wellfit.deliver.predict import Predictor
from wellfit.errors import RunError
from wellfit.finetune import adapters, parts, prompts
from wellfit.models.pretrained import OFFSET
from wellfit.run import Run

FORMATS = ("safetensors", "peft", "huggingface")


@dataclass(frozen=True)
class Exported:
    """What was written. `apart` is the largest difference of a number between the run's weights and those read again."""

    folder: Path
    apart: float
    notes: list[str] = field(default_factory=list)


def export(run: Run | str | Path, folder: str | Path, format: str = "safetensors") -> Exported:
    """Writes the best weights of a run into `folder`, which must be new or empty.

    Raises RunError for a format that is unknown or does not fit the run, and for a folder that is in use.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    folder = Path(folder).expanduser()
    if format not in WRITERS:
        raise RunError(f"The format is {format!r}; it can be {', '.join(WRITERS)}.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder} is in use; name a new folder, or an empty one.")
    predictor = Predictor.of(run)
    return WRITERS[format](run, predictor, folder)


def _safetensors(run: Run, predictor: Predictor, folder: Path) -> Exported:
    from safetensors.torch import load_file, save_file

    before = prompts.prompted(predictor.model)
    if before is not None:
        raise RunError(
            f"{run.folder} learnt vectors before frozen weights, which no weight can take up. Use the format peft."
        )
    state = adapters.merge(predictor.model).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().contiguous().clone() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again = load_file(folder / "model.safetensors")
    return Exported(folder, _apart(tensors, again))


def _peft(run: Run, predictor: Predictor, folder: Path) -> Exported:
    from safetensors.torch import load_file

    settings, model = run.recipe.finetune, predictor.model
    if settings.strategy not in (*finetune.BESIDE, *finetune.BEFORE):
        raise RunError(
            f"{run.folder} has nothing that PEFT would load: `finetune.strategy` was {settings.strategy!r}, by which the weights "
            "themselves were learnt. Use the format safetensors."
        )
    base = getattr(run.recipe.model, "name", None) or settings.weights or ""
    stages = finetune.plan(model, settings, total=1, per_epoch=1, fresh=run.task.get("fresh"))
    also = [name for name, start in stages.starts.items() if start != finetune.NEVER]
    within, _ = parts.trunk(model)
    adapters.save(model, folder, base, also=also)
    written = load_file(folder / "adapter_model.safetensors")
    outside = [name for name in also if within and not name.startswith(f"{within}.") and prompts.LEARNT not in name]
    notes = []
    if outside:
        notes.append(
            f"{', '.join(outside)} lie outside the part that PEFT loads into and are not in the adapter; the format safetensors has "
            "them."
        )
    before = prompts.prompted(model)
    if before is not None:
        learnt = before.tuned.get_prompt_embedding_to_save(adapters.NAME)
        return Exported(folder, _apart(written, {"prompt_embeddings": learnt}), notes)
    known = {n.replace(".default", "").removeprefix(f"{within}."): p for n, p in model.state_dict().items()}
    apart = _apart(written, {f"base_model.model.{name}": value for name, value in known.items()})
    return Exported(folder, apart, notes)


def _huggingface(run: Run, predictor: Predictor, folder: Path) -> Exported:
    from transformers import AutoConfig

    model = predictor.model
    within, inner = parts.trunk(model)
    if not within:
        raise RunError(
            f"{run.folder} did not train a model of Hugging Face (`model.kind=pretrained`), and other networks have no configuration "
            "that its library would read. Use the format safetensors."
        )
    if prompts.prompted(model) is not None:
        raise RunError(
            f"{run.folder} learnt vectors before frozen weights, which no weight can take up. Use the format peft."
        )
    kept: Any = adapters.merge(inner)
    kept.save_pretrained(folder)
    _tokenizer(run.task, kept.config).save_pretrained(folder)
    if "stop" in run.task and getattr(kept, "generation_config", None) is not None:
        kept.generation_config.eos_token_id = [number - OFFSET for number in run.task["stop"]]
        kept.generation_config.save_pretrained(folder)
    again = type(kept).from_pretrained(folder, config=AutoConfig.from_pretrained(folder)).eval()
    ids = torch.arange(8)[None] % min(8, int(kept.config.vocab_size))
    with torch.no_grad():
        apart = float((again(input_ids=ids)[0] - kept.eval()(input_ids=ids)[0]).abs().max())
    notes = []
    outside = [name for name, _ in model.named_parameters() if not name.startswith(f"{within}.")]
    if outside:
        notes.append(f"{', '.join(outside)} are ours and not in these files; the format safetensors has them.")
    return Exported(folder, apart, notes)


def _tokenizer(record: Mapping[str, Any], config: Any) -> Any:
    """The library's own, with the special tokens that the model's configuration numbers or its template names, and that template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    text, chat = record["tokens"]["pairs"], record.get("chat", {})
    backend = Tokenizer.from_str(text)
    numbers = {
        f"{role}_token": getattr(config, f"{role}_token_id", None)
        for role in ("pad", "bos", "eos", "cls", "sep", "mask")
    }
    marks = {role: backend.id_to_token(number) for role, number in numbers.items() if isinstance(number, int)}
    unknown = json.loads(text)["model"].get("unk_token")
    marks |= ({"unk_token": unknown} if unknown else {}) | chat.get("names", {})
    make: Any = PreTrainedTokenizerFast
    made = make(
        tokenizer_object=backend, **{role: mark for role, mark in marks.items() if role.endswith("_token") and mark}
    )
    if chat.get("template"):
        made.chat_template = chat["template"]
    return made


def _apart(tensors: dict[str, Any], others: dict[str, Any]) -> float:
    """The largest difference; infinity where one is missing or of another shape."""
    largest = 0.0
    for name, value in tensors.items():
        other = others.get(name)
        if other is None or other.shape != value.shape:
            return float("inf")
        largest = max(largest, float((value.float() - other.float()).abs().max()) if value.numel() else 0.0)
    return largest


WRITERS: dict[str, Callable[[Run, Predictor, Path], Exported]] = {
    "safetensors": _safetensors,
    "peft": _peft,
    "huggingface": _huggingface,
}
