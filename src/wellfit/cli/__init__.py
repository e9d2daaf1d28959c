"""The command line: one function a command, no logic. Nothing heavy is imported before a command needs it.

$ wellfit train digits --set training.epochs=5
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from wellfit.cli import completion
from wellfit.cli.predictions import CHOICES_TOLD
from wellfit.errors import WellfitError

app = typer.Typer(
    name="wellfit",
    help="Train any neural network well, and know why when it isn't.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="a.b=c",
        help="Set a field of the recipe. May be repeated.",
        autocompletion=completion.assignments,
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where runs are kept.")]
AsForTrain = Annotated[
    str, typer.Argument(metavar="[RECIPE]", help="As for `train`.", autocompletion=completion.recipes)
]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", autocompletion=completion.run_folders)]
Together = Annotated[
    Path | None, typer.Option("--folder", metavar="FOLDER", help="Exactly this folder for all of its runs.")
]
Seeds = Annotated[int, typer.Option("--seeds", metavar="N", help="Trainings of each, paired by seed.")]
Gpus = Annotated[
    int | None, typer.Option("--gpus", metavar="N", help="Train on N GPUs of this machine, a process each (torchrun).")
]
Restarts = Annotated[
    int, typer.Option("--restarts", metavar="N", help="With --gpus: how often lost processes are started again.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER[=PLACE]",
        help="Tell it to tensorboard[=FOLDER], wandb[=PROJECT] or mlflow[=URI] as it trains. May be repeated.",
        autocompletion=completion.trackers,
    ),
]
Numbers = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here too.")]
Picture = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The picture: .png, .svg or .pdf.")]
Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Where to listen; other than this machine, with a token.")
]
Port = Annotated[int, typer.Option("--port", metavar="PORT", help="0 takes any that is free.")]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", envvar="WELLFIT_TOKEN", help="What every request must bring (bearer)."),
]


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE]",
            help="A preset, a recipe file, a run folder, or the path of your data.",
            autocompletion=completion.recipes,
        ),
    ] = "digits",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Exactly this folder for the run.")
    ] = None,
    cure: Annotated[bool, typer.Option("--cure", help="Treat what the doctor finds, as `wellfit cure` does.")] = False,
    track: Track = None,
    gpus: Gpus = None,
    restarts: Restarts = 0,
) -> None:
    """Train a recipe to its report."""
    if gpus is not None:
        from wellfit.cli import ranks

        ranks.started(gpus, restarts)
        return
    from wellfit.cli import show

    chosen = show.chosen(recipe, overrides or [])
    trackers = show.trackers(track or [])
    from wellfit import api

    run = api.fit_recipe(chosen, root=runs, folder=folder, observers=trackers)
    show.outcome(run, leave=not cure, trackers=trackers)
    if cure:
        from wellfit.cli import cures

        cures.cured(run.folder, None)


@app.command()
def resume(run: RunFolder, track: Track = None, gpus: Gpus = None, restarts: Restarts = 0) -> None:
    """Go on with a run that was stopped or killed, to the same bits."""
    if gpus is not None:
        from wellfit.cli import ranks

        ranks.started(gpus, restarts)
        return
    from wellfit.cli import show

    trackers = show.trackers(track or [])
    from wellfit import api

    show.outcome(api.resume(run, observers=trackers), trackers=trackers)


@app.command()
def rerun(
    run: RunFolder,
    overrides: Overrides = None,
    from_step: Annotated[int, typer.Option("--from-step", metavar="K", help="The last step that is kept.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Exactly this folder for the new run.")
    ] = None,
) -> None:
    """Train a run again from one of its steps, with something changed, or to the same bits. Leaves with 3 if those differ."""
    from wellfit.cli import cures

    cures.repeated(run, overrides or [], from_step, folder)


@app.command()
def cure(
    run: RunFolder,
    seeds: Seeds = 3,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Optimizer steps that everything together may take.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="M", help="Or the minutes that it may take. Ten, if nothing is said."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be tried, as changes of the recipe.")
    ] = False,
    json: Numbers = None,
) -> None:
    """Try the remedies of what the doctor found in a run, keep what is proven to help, and write the recipe. Goes on if repeated."""
    from wellfit.cli import cures

    if dry_run:
        cures.planned(run)
    else:
        cures.cured(run, json, seeds=seeds, steps=steps, minutes=minutes)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="As for `train`.", autocompletion=completion.recipes)],
    changes: Annotated[
        list[str],
        typer.Argument(metavar="CHANGE...", help="a.b=c or a.b=c,d.e=f, or another recipe: a preset, a file, a run."),
    ],
    seeds: Seeds = 3,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    folder: Together = None,
    out: Picture = None,
    json: Numbers = None,
) -> None:
    """Train a recipe and changes of it over several seeds, and say which is better. Goes on if repeated."""
    from wellfit.cli import cures, show
    from wellfit.recipe import assignment
    from wellfit.trials import compare as comparing

    everywhere = dict(map(assignment, overrides or []))
    chosen = show.chosen(recipe, overrides or []).override({"name": Path(recipe).stem or recipe}, by="derived")
    cures.compared(
        lambda: comparing.compare(chosen, *changes, set=everywhere, seeds=seeds, root=runs, folder=folder),
        "Compared",
        out,
        json,
    )


@app.command()
def ablate(
    recipe: AsForTrain = "digits",
    only: Annotated[
        str | None, typer.Option("--only", metavar="A,B", help="Some regularizers: weight-decay, dropout, ...")
    ] = None,
    seeds: Seeds = 3,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    folder: Together = None,
    out: Picture = None,
    json: Numbers = None,
) -> None:
    """Train without regularizers, then with one at a time, then with all, and say what each buys. Goes on if repeated."""
    from wellfit.cli import cures, show
    from wellfit.trials import compare as comparing

    named = [part.strip() for part in only.split(",") if part.strip()] if only is not None else None
    chosen = show.chosen(recipe, overrides or [])
    cures.compared(
        lambda: comparing.ablate(chosen, only=named, seeds=seeds, root=runs, folder=folder), "One at a time", out, json
    )


@app.command()
def runs(
    root: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where runs are kept.")] = Path("runs"),
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="COLUMN",
            help="By age, name, state, steps, score or findings: latest, best or most first.",
            autocompletion=completion.sorts,
        ),
    ] = None,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="Only those with TEXT in name, state or score.")
    ] = None,
) -> None:
    """List the runs that are here, latest first."""
    from wellfit.cli import screens

    screens.runs(root, sort, filter)


@app.command("show")
def shown(run: RunFolder) -> None:
    """Show a run on one screen: how it stands, scores, course, findings, and how to go on."""
    from wellfit.cli import screens

    screens.show(run)


@app.command()
def track(
    run: RunFolder,
    trackers: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACKER...",
            help="tensorboard[=FOLDER], wandb[=PROJECT] or mlflow[=URI].",
            autocompletion=completion.trackers,
        ),
    ],
) -> None:
    """Tell a run that exists to TensorBoard, Weights & Biases or MLflow. May be repeated; nothing is doubled."""
    from wellfit.cli import show

    show.tracked(run, trackers)


@app.command()
def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE or FIELD]",
            help="A preset, a recipe file, a run, or a field such as optimizer.learning_rate.",
            autocompletion=completion.topics,
        ),
    ] = "",
    overrides: Overrides = None,
) -> None:
    """Say what each setting is, who set it, and why."""
    from wellfit.cli import show

    show.explanation(what, overrides or [])


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report.html anew and say where it is."""
    from wellfit import api

    typer.echo(api.write_report(run))


@app.command()
def ui(
    root: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where runs are kept.")] = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = 8017,
    token: Token = None,
) -> None:
    """Look at runs in a browser, while they grow: filter, lay curves over each other, read findings and reports."""
    from wellfit.report import live

    live.look(root, host=host, port=port, token=token, told=typer.echo)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def doctor(
    program: Annotated[str, typer.Argument(metavar="SCRIPT or RUN", help="A Python script, or a run's folder.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own.")] = None,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is a module, package.module.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings here too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave with 3 where there are errors or warnings.")] = False,
) -> None:
    """Watch a script train, unmodified, or re-read a run, and say what is wrong with it."""
    from wellfit.cli import diagnose

    raise typer.Exit(diagnose.diagnosed(program, arguments or [], module, json, strict))


@app.command()
def check(
    recipe: AsForTrain = "digits",
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the checks here too.")] = None,
) -> None:
    """Examine data, model, loss and optimizer before any training, on copies. Leaves with 3 where a check failed."""
    from wellfit.cli import diagnose, show

    raise typer.Exit(diagnose.checked(show.chosen(recipe, overrides or []), json))


@app.command()
def trace(
    recipe: AsForTrain = "digits",
    overrides: Overrides = None,
    shapes: Annotated[bool, typer.Option("--shapes", help="Only shapes, and how output sizes come about.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the layers here too.")] = None,
) -> None:
    """Take one training step on a copy and tell of each layer: shape, activations, gradient, weights, update."""
    from wellfit.cli import diagnose, show

    diagnose.traced(show.chosen(recipe, overrides or []), shapes, json)


@app.command(epilog=CHOICES_TOLD)
def predict(
    run: RunFolder,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Pictures, folders, tables, texts or files of texts; - for lines of the input."
        ),
    ],
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a=b", help="A choice of the task's, such as top=3 or length=100."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write them here: .json, .jsonl or .csv.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Say what a trained run makes of new inputs."""
    from wellfit.cli import predictions

    predictions.told(run, inputs, choices or [], json, out, force)


@app.command()
def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="A new folder for the files.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            autocompletion=completion.formats,
            help="safetensors: all weights, adapters added. peft: the adapters alone. huggingface: a pretrained language model. "
            "onnx, torch-export: the network as a graph.",
        ),
    ] = "safetensors",
) -> None:
    """Write what a run learnt in the files that other libraries read, and compare them with the run."""
    from wellfit.cli import predictions

    predictions.written(run, folder, format)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", help="Inputs that go through the network together.")
    ] = 64,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", metavar="MS", help="That a batch waits for more inputs.")
    ] = 2.0,
    max_bytes: Annotated[int, typer.Option("--max-bytes", metavar="N", help="Of a request.")] = 10_000_000,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", metavar="N", help="Inputs that may wait; beyond that it says 503.")
    ] = 20_000,
) -> None:
    """Answer predictions over HTTP: JSON in, JSON out, several requests together. SIGTERM and Ctrl-C end it."""
    from wellfit.cli import predictions

    limits = {"batch": max_batch, "wait_ms": max_wait_ms, "bytes": max_bytes, "room": max_waiting}
    predictions.served(run, host, port, token, limits)


@app.command()
def eject(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.py]", help="The script. Else one here that is called like the recipe."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Run it, and compare its weights with the run's. Leaves with 3 if they differ."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write the plain PyTorch script that trains a run's weights again, bit for bit, without wellfit."""
    from wellfit.cli import ejection

    ejection.told(run, file, check, force)


@app.command()
def suggest(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The path of your data, or an embedded set.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the recipe here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Look at data, pick task, model and settings, and say why."""
    from wellfit.cli import predictions

    predictions.suggested(data, overrides or [], out, force)


@app.command()
def draw(
    picture: Annotated[
        str,
        typer.Argument(help="vanishing, depth, approximation, or attention.", autocompletion=completion.pictures),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN TEXT]", help="For attention: a run's folder and a text.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="A .png, .svg or .pdf.")] = None,
) -> None:
    """Draw a picture that explains: gradients through time and depth, what a layer can fit, where attention looks."""
    from wellfit.cli import drawing

    drawing.drawn(picture, arguments or [], out)


@app.command()
def learning_curve(
    recipe: AsForTrain = "digits",
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", metavar="100,200,all", help="Numbers of training samples. Else a row that doubles."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Trainings of each size.")] = 3,
    budget: Annotated[
        str,
        typer.Option(
            "--budget", metavar="steps|epochs", help="What all sizes have equally many of. Equal epochs cost less."
        ),
    ] = "steps",
    beside: Annotated[
        str | None, typer.Option("--beside", metavar="scratch", help="The same without trained weights, too.")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    folder: Together = None,
    out: Picture = None,
    json: Numbers = None,
    weights: Annotated[bool, typer.Option("--weights", help="Keep the best weights of each run.")] = False,
) -> None:
    """Train on growing numbers of labels and say what more of them, and trained weights, are worth. Goes on if repeated."""
    from wellfit.cli import labels, show

    labels.told(
        show.chosen(recipe, overrides or []), sizes, out, json,
        seeds=seeds, budget=budget, beside=beside, weights=weights, root=runs, folder=folder,
    )  # fmt: skip


@app.command()
def find_lr(
    recipe: AsForTrain = "digits",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Of weights and order, at least 3.")] = 3,
    share: Annotated[
        float, typer.Option("--share", metavar="X", help="Of the training's steps that each short training takes.")
    ] = 0.125,
    overrides: Overrides = None,
    out: Picture = None,
    json: Numbers = None,
) -> None:
    """Measure the learning rate by a range test and short trainings. Leaves with 3 where there is no stable answer."""
    from wellfit.cli import rates, show

    kept = [one for one in overrides or [] if not one.startswith("optimizer.learning_rate=")]
    called = " ".join([shlex.quote(recipe), *(f"--set {shlex.quote(one)}" for one in kept)])
    rates.told(show.chosen(recipe, overrides or []), called, out, json, seeds=seeds, share=share)


@app.command()
def plan(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE or CONFIG]",
            help="As for `train`; or a language model of Hugging Face: its config.json, a folder with one, or its name.",
        ),
    ] = "digits",
    overrides: Overrides = None,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", help="Samples, or sequences, in a step.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", metavar="N", help="Of each sequence.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="P", help="fp32, bf16, fp16; of a config also pure-bf16.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", metavar="KIND", help="As in a recipe.")] = None,
    checkpointing: Annotated[
        int | None, typer.Option("--checkpointing", metavar="N", help="Every N-th block recomputes its activations.")
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", metavar="N", help="Micro-batches that share a step.")
    ] = None,
    lora: Annotated[int | None, typer.Option("--lora", metavar="RANK", help="Only LoRA's matrices learn.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", metavar="4|8", help="Of the weights that do not learn.")] = None,
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="GPUs that share the model.")] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Not training: a prompt is read, with its cache.")] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help='On which it has to fit, such as "RTX 4090".')
    ] = None,
    json: Numbers = None,
) -> None:
    """Say what memory a training, or a model that serves, needs, on which GPUs it fits, and how to make it fit."""
    from wellfit.cli import memory as planning

    asked = {
        "batch": batch, "tokens": tokens, "precision": precision, "optimizer": optimizer, "checkpointing": checkpointing,
        "micro_batches": accumulation, "lora": lora, "bits": bits, "serve": serve or None,
    }  # fmt: skip
    planning.planned(what, overrides or [], asked, devices, gpu, json)


@app.command()
def profile(
    recipe: AsForTrain = "digits",
    overrides: Overrides = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="Optimizer steps that are timed; two seconds' worth, if not said."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--try", metavar="a.b=c", help="Try this change, and no other. May be repeated; a.b=c,d.e=f is one."
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="That trying changes may take, about.")
    ] = 5.0,
    trying: Annotated[bool, typer.Option("--changes/--no-changes", help="Try what may make a step faster.")] = True,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="The steps, .json or .json.gz, for Perfetto or chrome://tracing."),
    ] = None,
    json: Numbers = None,
) -> None:
    """Say where a training step's time goes, and measure which changes make it faster."""
    from wellfit.cli import profiles, show

    chosen = show.chosen(recipe, overrides or [])
    how = {"steps": steps, "minutes": minutes, "changes": changes if trying else []}
    profiles.told(recipe, chosen, overrides or [], how, trace, json)


@app.command("find-batch")
def find_batch(
    recipe: AsForTrain = "digits",
    overrides: Overrides = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="24GB", help="Of the GPU on which it has to fit. Else what is here."),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help='Or its name, such as "RTX 4090".')] = None,
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", help="Processes that share the batch (DDP).")] = 1,
    json: Numbers = None,
) -> None:
    """Find the largest micro-batch that fits, for the batch that a training has. Leaves with 3 where none does."""
    from wellfit.cli import memory as planning

    kept = [one for one in overrides or [] if not one.startswith("training.gradient_accumulation_steps=")]
    called = " ".join([shlex.quote(recipe), *(f"--set {shlex.quote(one)}" for one in kept)])
    planning.batched(recipe, overrides or [], called, json, memory=memory, gpu=gpu, ranks=ranks)


@app.command()
def hardware() -> None:
    """List the processors and accelerators that are here, and the memory they have."""
    from wellfit.cli import memory as planning

    planning.here()


@app.command()
def lab(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A pathology, or the doctor's id of it. Without one, lists them.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Run all of them, and bind them in one page.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Runs of each program.")] = 3,
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where pictures go.")] = Path("lab"),
    out: Picture = None,
    json: Numbers = None,
) -> None:
    """Cause a fault of training on purpose, on real digits, let the doctor name it, cure it, and draw both."""
    from wellfit.cli import pathologies

    pathologies.told(name, everything, seeds, folder, out, json)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from wellfit import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point: errors that a user can mend become one paragraph and their exit status."""
    try:
        app()
    except WellfitError as error:
        if not getattr(error, "told", False):  # another rank says the same
            print(f"wellfit: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        if error.filename is None:  # no file that a user could mend
            raise
        print(f"wellfit: {error.filename} cannot be read: {error.strerror}.", file=sys.stderr)
        sys.exit(WellfitError.status)
    except SystemExit as left:
        # typer makes a bare exit of Ctrl-C; inside the loop it is caught before and told there.
        stopped = getattr(left.__context__, "__cause__", None)
        if isinstance(stopped, KeyboardInterrupt):
            usual = "stopped. What was saved before is in the run's folder; `wellfit resume RUN` goes on with it."
            print(f"wellfit: {str(stopped) or usual}", file=sys.stderr)
        raise
