"""What a run learnt, in the files that other libraries read.

    safetensors   model.safetensors: all weights by name, adapters added to them
    peft          adapter_config.json, adapter_model.safetensors: what was learnt beside or before frozen weights, as PEFT has it
    huggingface   config.json, model.safetensors, tokenizer.json: a pretrained language model, adapters added to it
    onnx          model.onnx: the network as a graph, which onnxruntime and others compute without Python
    torch-export  model.pt2: the network as PyTorch's own exported program

After writing, the files are read again and compared with the run's own network. Beside them lie `preprocessing.json`, which
tells a program how inputs are made and what comes out, and `README.md`, a model card, which tells people; no file says more
than the run's folder does, and none names a place of the machine that trained.

>>> export("runs/lora", "adapter/", "peft")
Exported(folder=PosixPath('adapter'), apart=0.0, notes=[...])
"""

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wellfit import finetune
from wellfit.deliver import card, graph
from wellfit.deliver.predict import Predictor
from wellfit.errors import RunError
from wellfit.finetune import adapters, parts, prompts
from wellfit.models.pretrained import OFFSET
from wellfit.run import Run

README, FACTS = "README.md", "preprocessing.json"


@dataclass(frozen=True)
class Exported:
    """What was written. `apart` is the largest difference of a number between the run's and what was read again.

    Of weights for safetensors and peft, of outputs for the others. For graphs, `measured` says on what, and numbers above 1
    count relative to their size.
    """

    folder: Path
    apart: float
    notes: list[str] = field(default_factory=list)
    measured: graph.Measured | None = None


def export(run: Run | str | Path, folder: str | Path, format: str = "safetensors") -> Exported:
    """Writes the best weights of a run into `folder`, which must be new or empty; it is filled as a whole or not at all.

    Raises RunError for a format that is unknown or does not fit the run, for a folder that is in use, and for a graph that
    does not compute what the run's network does; MissingExtra without the packages of a format.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    folder = Path(folder).expanduser()
    if format not in WRITERS:
        raise RunError(f"The format is {format!r}; it can be {', '.join(WRITERS)}.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder} is in use; name a new folder, or an empty one.")
    predictor = Predictor.of(run)
    part = folder.absolute().parent / f".{folder.absolute().name}-{secrets.token_hex(4)}"
    try:
        part.mkdir(parents=True)
        done = WRITERS[format](run, predictor, part)
        _described(run, predictor, done, format)
        part.replace(folder)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}. Name another place, or make room."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return replace(done, folder=folder)


def _described(run: Run, predictor: Predictor, done: Exported, format: str) -> None:
    """What programs and people have to know, beside the weights."""
    try:
        network = graph.Graph.of(predictor)
    except RunError:  # the network is no graph; the rest is told all the same
        network = None
    told = card.facts(predictor, network, format)
    (done.folder / FACTS).write_text(json.dumps(told, indent=1), encoding="utf-8")
    pairs = predictor.record.get("tokens", {}).get("pairs")
    if pairs and not (done.folder / "tokenizer.json").exists():
        (done.folder / "tokenizer.json").write_text(pairs, encoding="utf-8")
    (done.folder / README).write_text(card.card(run, told, format, done.measured), encoding="utf-8")


def _onnx(run: Run, predictor: Predictor, folder: Path) -> Exported:
    return _graph(run, predictor, folder, graph.onnx)


def _torch_export(run: Run, predictor: Predictor, folder: Path) -> Exported:
    return _graph(run, predictor, folder, graph.torch_export)


def _graph(
    run: Run,
    predictor: Predictor,
    folder: Path,
    write: Callable[[graph.Graph, graph.Samples, Path], graph.Measured],
) -> Exported:
    network = graph.Graph.of(predictor)
    samples = graph.Samples(run, network)
    measured = write(network, samples, folder)
    if not measured.apart <= graph.BAR:
        raise RunError(
            f"What was written computes something else than the run's network: the largest difference is {measured.apart:.1e}, and the "
            f"most that is let pass {graph.BAR:g}. Nothing was kept; the format safetensors has the weights."
        )
    return Exported(folder, measured.apart, [samples.why] if samples.why else [], measured)


def _safetensors(run: Run, predictor: Predictor, folder: Path) -> Exported:
    from safetensors.torch import load_file, save_file

    before = prompts.prompted(predictor.model)
    if before is not None:
        raise RunError(
            f"{run.folder} learnt vectors before frozen weights, which no weight can take up. Use the format peft."
        )
    state = adapters.merge(predictor.model).state_dict()
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
        far = (value.float() - other.float()).abs()[~(value.isnan() & other.isnan())]
        largest = max(largest, float(far.nan_to_num(nan=float("inf")).max()) if far.numel() else 0.0)
    return largest


WRITERS: dict[str, Callable[[Run, Predictor, Path], Exported]] = {
    "safetensors": _safetensors,
    "peft": _peft,
    "huggingface": _huggingface,
    "onnx": _onnx,
    "torch-export": _torch_export,
}
