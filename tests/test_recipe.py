"""A recipe is frozen and validated, names the nearest right key, and knows who set each value."""

import json

import pytest
from pydantic import ValidationError

from wellfit.defaults import Facts, resolve
from wellfit.errors import RecipeError
from wellfit.recipe import MODELS, Recipe, describe, paths, presets

FACTS = Facts(task="image-classification", train_samples=1293, valid_samples=144, name="digits")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("optimizer.learning_rat=1", "`optimizer.learning_rate`"),
        ("trainnig.epochs=3", "`training.epochs`"),
        ("training.epoch=3", "`training.epochs`"),
        ("training.epochs=0", "greater than 0"),
        ("training.epochs=-1", "greater than 0"),
        ("training.batch_size=2.5", "integer"),
        ("training.seed=x", "integer"),
        ("model.kind=mpl", "`mlp`"),
        ("data.missing=err", "it can be error, mean"),
        ("optimizer.kind=adma", "`adam`"),
        ("schedule.kind=cosin", "`cosine`"),
        ("schedule.milestones=[0.8,0.2]", "must rise"),
        ("data.valid_share=1.5", "less than 1"),
        ("training", "assignment"),
        ("=3", "assignment"),
        ("training.epochs={", "YAML"),
        ("foo.bar=1", "not in a recipe"),
        ("origins.x=1", "kept by wellfit"),
        ("training.max_grad_norm.x=1", "not in a recipe"),
    ],
)
def test_a_wrong_override_is_one_clear_sentence(assignment: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe().override([assignment])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: {epoch: 3}", "`training.epochs`"),
        ("trainin: {epochs: 3}", "`training`"),
        ("- 1\n- 2", "mapping"),
        ("training: [", "not valid YAML"),
        ("training: 3", "`training`"),
        ("model: {kind: convnet, channels: []}", "at least one block"),
        ("model: {widths: [3]}", "`kind`"),
        ("training: {epochs: 3, steps: 10}", "both set"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_clear_sentence(text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert says in str(caught.value)


def test_unknown_recipe_names_the_nearest_preset() -> None:
    with pytest.raises(RecipeError, match="`digits`"):
        Recipe.load("digit")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().training.epochs = 3  # type: ignore[misc]


def test_numbers_as_people_write_them() -> None:
    recipe = Recipe().override(["optimizer.learning_rate=1e-3", "training.max_grad_norm=null", "optimizer.eps=1E-7"])
    assert (recipe.optimizer.learning_rate, recipe.training.max_grad_norm, recipe.optimizer.eps) == (1e-3, None, 1e-7)


def test_origins() -> None:
    recipe = resolve(Recipe.load("digits").override(["training.seed=7"]), FACTS)
    assert recipe.origin("training.seed").by == "user"
    assert recipe.origin("training.max_grad_norm").by == "default"
    assert "rare large steps" in recipe.origin("training.max_grad_norm").why
    derived = recipe.origin("optimizer.weight_decay")
    assert derived.by in ("derived", "preset")
    assert derived.why
    assert any(recipe.origin(path).by == "preset" for path in recipe.flat())


def test_a_recipe_survives_its_file(tmp_path) -> None:
    recipe = resolve(Recipe.load("digits").override(["optimizer.learning_rates.network.*=1e-4"]), FACTS)
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    again = Recipe.load(tmp_path)
    assert again == recipe
    assert again.dump() == recipe.dump()
    assert recipe.diff(again) == []


def test_diff_and_unresolved() -> None:
    recipe = Recipe()
    changed = recipe.override({"training.seed": 3, "optimizer.kind": "sgd"})
    assert [(c.path, c.before, c.after) for c in recipe.diff(changed)] == [
        ("optimizer.kind", "adamw", "sgd"),
        ("training.seed", 0, 3),
    ]
    assert resolve(changed, FACTS).unresolved() == changed


def test_what_the_size_of_images_decided_is_open_again_and_the_chosen_kind_stays() -> None:
    facts = Facts(task="image-classification", train_samples=1293, shape=(3, 32, 32))
    chosen = Recipe().override(["model.kind=resnet", "model.zero_init=true"])
    resolved = resolve(chosen, facts)
    assert (resolved.model.stem, resolved.model.depth) == ("cifar", 20)
    assert resolved.unresolved() == chosen


def test_a_new_kind_resets_its_group() -> None:
    recipe = Recipe().override(["model.kind=mlp", "model.widths=[7]"]).override(["model.kind=convnet"])
    assert recipe.model == MODELS["convnet"]()
    assert "model.widths" not in recipe.origins


def test_steps_and_epochs_replace_each_other() -> None:
    recipe = Recipe().override(["training.epochs=5"]).override(["training.steps=10"])
    assert (recipe.training.epochs, recipe.training.steps) == (None, 10)


def test_resolving_leaves_nothing_open_and_changes_nothing_chosen() -> None:
    chosen = Recipe().override(["training.batch_size=32", "optimizer.kind=lion"])
    resolved = resolve(chosen, FACTS)
    allowed = {"data.text", "data.other", "data.tokens", "data.vocabulary", "data.context", "data.template", "data.packing",
               "data.time", "data.train_samples", "data.history", "data.horizon", "data.season", "data.transform", "data.parts",
               "finetune.strategy", "finetune.weights", "finetune.remember", "finetune.mean", "finetune.std",
               "data.target", "data.valid", "data.test", "data.test_share", "data.image_size", "training.steps",
               "loss.class_weights", "training.max_grad_value", "evaluation.patience", "optimizer.reference_batch_size"}  # fmt: skip
    assert {path for path, value in resolved.flat().items() if value is None} <= allowed
    assert resolved.training.batch_size == 32
    assert resolved.optimizer.learning_rate == 1e-4  # Lion's, not AdamW's
    assert all(resolved.origin(c.path).by == "derived" for c in chosen.diff(resolved) if not c.path.startswith("model"))
    assert resolved.origin("model.kind").by == "derived"


def test_every_field_says_what_it_is_and_why() -> None:
    for preset in [Recipe(), Recipe().override(["model.kind=mlp"]), Recipe().override(["model.kind=convnet"])]:
        for path in preset.flat():
            about = describe(path, preset)
            assert about.get("what") or path.endswith(".kind"), path
            assert about.get("why") or path.endswith(".kind"), path


def test_a_field_of_any_model_is_described() -> None:
    assert all(describe(path).get("what") for path in ("model.widths", "model.norm", "model.channels", "model.dropout"))


def test_json_schema_knows_every_path() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    json.dumps(schema)
    assert "optimizer.learning_rate" in paths()


def test_presets_load_and_resolve() -> None:
    assert {"digits", "wine", "breast-cancer", "diabetes", "mnist"} <= set(presets())
    for name in presets():
        resolve(Recipe.load(name), FACTS)


def test_a_field_of_another_model_is_told_as_that() -> None:
    with pytest.raises(
        RecipeError, match=r"`model.channels`.* does not belong to `model.kind=mlp`; it does to .*convnet"
    ):
        Recipe().override({"model": {"kind": "mlp", "channels": (8,)}})
