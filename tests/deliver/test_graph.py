"""A network leaves as a graph that computes the same, for any number of samples; its card and its program are enough to use it."""

import builtins
import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_runs import RUNS, run

import wellfit
from wellfit.deliver import card, graph
from wellfit.deliver.export import export
from wellfit.deliver.graph import NOT_A_GRAPH, Graph, Measured, Samples
from wellfit.deliver.predict import Predictor
from wellfit.errors import RunError
from wellfit.events import Evaluated, Noted, Vitals, encode
from wellfit.run import Run
from wellfit.tasks import KINDS

TEXT = "not bad at all"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a run's export as PyTorch's program, made once."""
    made: dict[str, wellfit.deliver.export.Exported] = {}
    root = tmp_path_factory.mktemp("exported")

    def of(name: str, format: str = "torch-export"):
        key = f"{name}-{format}"
        if key not in made:
            made[key] = export(run(name), root / key, format)
        return made[key]

    return of


def program(folder: Path) -> str:
    """What the card's program prints, executed in that folder, where wellfit cannot be imported."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    real = builtins.__import__

    def without(name, *more):
        assert not name.startswith("wellfit"), "the program must do without"
        return real(name, *more)

    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        exec(compile(code, "card", "exec"), {"__name__": "card"})
    return said.getvalue()


def test_every_task_is_a_graph_or_says_why_not() -> None:
    assert set(graph.GRAPHS) | set(NOT_A_GRAPH) == set(KINDS)
    assert not set(graph.GRAPHS) & set(NOT_A_GRAPH)
    predictor = Predictor(torch.nn.Linear(1, 1), {}, "object-detection", run("digits").recipe.data)
    with pytest.raises(RunError, match=r"no graph of tensors.*`wellfit serve` run it"):
        Graph.of(predictor)


@pytest.mark.parametrize("name", RUNS)
def test_the_exported_program_computes_what_the_run_does(name, exported) -> None:
    done = exported(name)
    assert done.apart <= 1e-5
    assert done.measured.sizes == (1, 2, 5, 32)
    assert "samples of the run's data" in done.measured.on
    assert not done.notes
    found = Graph.of(Predictor.of(run(name)))
    module = torch.export.load(done.folder / "model.pt2").module()
    inputs = found.drawn(3, torch.Generator().manual_seed(7))
    with torch.no_grad():
        ours = found.module(*inputs)
        assert float(ours.std()) > 0, "a network that says the same of everything would prove nothing"
        torch.testing.assert_close(module(*inputs), ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["digits", "series"])
def test_onnx_computes_what_the_run_does(name, exported) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    done = exported(name, "onnx")
    assert done.apart <= 1e-5
    session = onnxruntime.InferenceSession(done.folder / "model.onnx")
    found = Graph.of(Predictor.of(run(name)))
    assert [one.name for one in session.get_inputs()] == [part.name for part in found.inputs]
    assert [one.name for one in session.get_outputs()] == [part.name for part in found.outputs]
    inputs = found.drawn(3, torch.Generator().manual_seed(3))
    (said,) = session.run(None, {part.name: x.numpy() for part, x in zip(found.inputs, inputs, strict=True)})
    with torch.no_grad():
        np.testing.assert_allclose(said, found.module(*inputs).numpy(), atol=1e-5, rtol=1e-5)


def test_the_program_of_a_picture_says_what_predict_says(exported) -> None:
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnxruntime")
    for done in (exported("digits"), exported("digits", "onnx")):
        Image.fromarray(np.arange(300, dtype=np.uint8).reshape(15, 20) // 16).save(done.folder / "picture.png")
        name, share = program(done.folder).split()
        told = wellfit.predict(run("digits"), done.folder / "picture.png")[0]
        assert (name, round(float(share), 3)) == (told["class"], round(told["confidence"], 3))


def example(folder: Path) -> dict:
    """The row that the program of a table has in it."""
    columns = json.loads((folder / "preprocessing.json").read_text())["columns"]
    return {name: columns["fill"][name] for name in columns["numeric"]} | {"town": columns["categories"]["town"][0]}


def test_the_programs_of_rows_and_texts_say_what_predict_says(exported) -> None:
    told = wellfit.predict(run("classes"), example(exported("classes").folder))[0]
    assert program(exported("classes").folder).rsplit(maxsplit=1)[0] == told["class"]
    told = wellfit.predict(run("numbers"), example(exported("numbers").folder))[0]
    assert float(program(exported("numbers").folder)) == pytest.approx(told["value"], rel=1e-4)
    name, share = program(exported("text").folder).split()
    told = wellfit.predict(run("text"), TEXT)[0]
    assert (name, round(float(share), 3)) == (told["class"], round(told["confidence"], 3))
    first, second = (
        np.array(one["vector"]) for one in wellfit.predict(run("vectors"), ["the names of all files", "files by name"])
    )
    assert float(program(exported("vectors").folder).split()[0]) == pytest.approx(float(first @ second), abs=1e-5)
    words = ["self.path", "=", "os.path.join", "(", "name", ")"]
    assert program(exported("tags").folder).strip() == str(wellfit.predict(run("tags"), [words])[0]["tags"])


def test_the_programs_of_series_and_written_texts(exported) -> None:
    said = np.array(program(exported("series").folder).replace("[", "").replace("]", "").split(), float)
    rows = [{"day": f"2020-01-{1 + i:02d}", "sold": 1.0} for i in range(14)]
    told = wellfit.predict(run("series"), rows)[0]
    assert said == pytest.approx(told["values"]["sold"], abs=1e-3)
    assert len(program(exported("writer").folder).strip("\n")) == 24, "four characters and twenty more"
    told = wellfit.predict(run("rewriter"), "x = 1", beams=1, length=39)[0]["text"]
    assert program(exported("rewriter").folder).strip() == told


def test_no_place_of_this_machine_and_no_sample_leaves(exported) -> None:
    pytest.importorskip("onnxruntime")
    places = [
        str(run("classes").folder).encode(),
        str(Path(torch.__file__).parent).encode(),
        b"site-packages",
        b"secret",
    ]
    contents = {}
    for done in (exported("classes"), exported("classes", "safetensors"), exported("digits", "onnx")):
        for file in done.folder.iterdir():
            contents[f"{done.folder.name}/{file.name}"] = file.read_bytes()
            if file.suffix == ".pt2":
                with zipfile.ZipFile(file) as packed:
                    contents |= {f"{file.name}/{name}": packed.read(name) for name in packed.namelist()}
    assert len(contents) > 8
    for name, content in contents.items():
        for place in places:
            assert place not in content, (name, place)


def test_the_card_tells_what_the_run_folder_tells(exported) -> None:
    text = (exported("classes").folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["library_name"] == "pytorch"
    assert told["pipeline_tag"] == "tabular-classification"
    assert {"wellfit", "mlp"} <= set(told["tags"])
    (result,) = told["model-index"][0]["results"]
    kept = {one["type"]: one["value"] for one in result["metrics"]}
    assert kept["accuracy"] == pytest.approx(run("classes").scores()["accuracy"], abs=1e-6)
    assert "rows.csv" in body
    assert "<b>" not in body, "a name from data is only a name"
    assert "(validation, 9 samples)" in body
    assert "also chose the weights" in body, "without a test set it is said"
    assert "The doctor was switched off" in body
    assert "at most" in body.split("## Parity")[1]
    data = wellfit.Recipe.parse(body.split("```yaml\n")[1].split("```")[0]).data
    assert data.target == "answer"
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard(text).data.eval_results[0].dataset_name == "rows.csv"


def copied(name: str, folder: Path, **changes) -> Run:
    """A run's folder somewhere else, with changes to its recipe."""
    shutil.copytree(run(name).folder, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for path, value in changes.items():
        group, last = path.split("__")
        recipe[group][last] = value
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Run.open(folder)


def test_yardsticks_findings_and_shares_of_classes_are_told(tmp_path) -> None:
    made = copied("classes", tmp_path / "run", training__doctor=True)
    shares = {"samples": 80.0, "class 0": 0.25, "class 1": 0.75}
    more = [
        Evaluated(3, "test", {"accuracy": 0.5}, samples=40), Evaluated(3, "test", {"accuracy": 0.625}, of="random forest"),
        Vitals(3, "labels", "cross_entropy", shares), Noted(3, f"A note on {made.recipe.data.source}."),
    ]  # fmt: skip
    with (made.folder / "events.jsonl").open("a") as file:
        file.writelines(encode(event) + "\n" for event in more)
    told = card.facts(Predictor.of(made), None, "safetensors")
    assert "watched the training and found nothing" in card.card(made, told, "safetensors")
    made.keep_findings([{"id": "class-imbalance", "severity": "warning", "says": "Class <0> is rare."}])
    text = card.card(made, told, "safetensors")
    assert "| accuracy |" in text
    assert "model (test, 40 samples) | random forest (test, 40 samples) |" in text
    assert "50.0 % | 62.5 % |" in text
    assert "**class-imbalance** (warning): Class &lt;0&gt; is rare." in text
    assert "75.0 % are `yes`, the most frequent, and 25.0 % `&lt;b&gt;\\|no`" in text
    assert "A note on rows.csv." in text, "without the place of the file"


def test_without_the_data_inputs_are_drawn_and_it_is_said(tmp_path) -> None:
    made = copied("numbers", tmp_path / "copy", data__source=str(tmp_path / "gone.csv"))
    done = export(made, tmp_path / "out", "torch-export")
    assert "drawn at random" in done.measured.on
    assert "cannot be read again" in done.notes[0]
    assert done.apart <= 1e-5


def test_what_computes_something_else_is_not_kept(tmp_path, monkeypatch) -> None:
    def other(*_):
        return Measured(0.1, (1,), "samples")

    monkeypatch.setattr(graph, "measure", other)
    with pytest.raises(RunError, match=r"largest difference is 1\.0e-01.*Nothing was kept"):
        export(run("numbers"), tmp_path / "out", "torch-export")
    assert not [*tmp_path.iterdir()]


def test_a_wrong_number_is_measured() -> None:
    found = Graph.of(Predictor.of(run("numbers")))
    samples = Samples(Run(run("numbers").folder), found)

    def shifted(inputs):
        with torch.no_grad():
            return (found.module(*inputs) + 3.0,)

    assert graph.measure(found, samples, shifted).apart > 0.05
    assert graph.measure(found, samples, lambda inputs: (torch.zeros(len(inputs[0]), 2),)).apart == float("inf")


def test_what_an_exporter_cannot_write_is_one_sentence(tmp_path, monkeypatch) -> None:
    def fails(*_, **__):
        raise ValueError("no such operator\nand a long story")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(RunError, match=r"cannot write this network down \(ValueError: no such operator\)"):
        export(run("numbers"), tmp_path / "out", "torch-export")
    assert not [*tmp_path.iterdir()]


def test_the_cards_program_answers_a_conversation_as_the_run_does(exported) -> None:
    said = wellfit.predict(run("chat"), "What is a function?", top_k=1, length=40)[0]
    assert program(exported("chat").folder) == said["text"] + "\n"
