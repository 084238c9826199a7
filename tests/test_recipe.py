"""Recipes: what they ask for, how they are versioned, and how a bad one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts.store import open_store
from ghost.errors import SettingsError
from ghost.settings import RunSettings
from tasks.watch.recipe import Gate, Recipe, keep_recipe, read_recipe
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

MINIMAL = {"name": "half", "source": "/models/new", "publish": "/models/pruned"}
EXAMPLE = Path(__file__).parent.parent / "recipes" / "half.yaml"


def write(folder: Path, **fields: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | fields))
    return str(path)


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate(MINIMAL | fields)


def test_a_recipe_becomes_the_parameters_of_a_run(tmp_path: Path) -> None:
    settings = {"sparsity": 0.75, "method": "ghost-mean", "store": "/models/store", "samples": 128}
    read = read_recipe(write(tmp_path, settings=settings, gate={"max_perplexity_rise": 0.1}))
    parameters = read.parameters("/models/new/a", "/models/pruned/a")
    assert parameters == {
        "sparsity": 0.75,
        "method": "ghost-mean",
        "store": "/models/store",
        "max_perplexity_rise": 0.1,
        "model": "/models/new/a",
        "out": "/models/pruned/a",
        "recipe": read.label,
    }
    assert RunSettings.make(**parameters).recipe == f"half@{read.version}"


def test_the_example_in_the_repository_is_a_recipe() -> None:
    example = read_recipe(str(EXAMPLE))
    assert (example.name, example.gate) == ("half", Gate(max_perplexity_rise=0.05))


@pytest.mark.parametrize(
    "changes",
    [{"settings": {"sparsity": 0.5}}, {"settings": {"device": "cpu"}}, {"settings": {"evaluation_timeout": 60}},
     {"settings": {"store": "/elsewhere"}}, {"source": "/other"}, {"publish": "/other"}, {"max_attempts": 9},
     {"stale_hours": 1}, {"gate": {}}, {"families": ["mamba2", "zamba2"]}],
    ids=str,
)  # fmt: skip
def test_defaults_places_and_patience_leave_the_version_as_it_is(changes: dict[str, Any]) -> None:
    assert recipe(**changes).label == recipe().label


@pytest.mark.parametrize(
    "changes",
    [{"settings": {"sparsity": 0.75}}, {"settings": {"calibration": "/texts/a.txt"}}, {"settings": {"window": 1024}},
     {"settings": {"dtype": "float32"}}, {"gate": {"max_perplexity": 20}}, {"gate": {"max_perplexity_rise": 0.1}}],
    ids=str,
)  # fmt: skip
def test_whatever_decides_about_the_result_makes_another_version(changes: dict[str, Any]) -> None:
    assert recipe(**changes).version != recipe().version


def test_the_version_is_of_values_and_not_of_their_spelling() -> None:
    spelled = [{"sparsity": 0.25, "seed": 1}, {"seed": 1, "sparsity": "0.25"}, {"seed": 1.0, "sparsity": 0.25}]
    assert len({recipe(settings=settings).version for settings in spelled}) == 1


def test_the_store_keeps_what_a_version_stands_for(tmp_path: Path) -> None:
    chosen = recipe(settings={"store": str(tmp_path / "store"), "sparsity": 0.75}, gate={"max_perplexity": 20})
    keep_recipe(chosen)
    keep_recipe(chosen)
    store = open_store(tmp_path / "store")
    assert store.list("recipes/") == [f"recipes/half@{chosen.version}.json"]
    kept = json.loads(store.record(f"recipes/{chosen.label}.json"))
    assert kept == {"name": "half", "settings": {"sparsity": 0.75}, "gate": {"max_perplexity": 20.0}}


def test_without_a_store_of_its_own_a_recipe_goes_where_the_runs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOST_STORE", str(tmp_path / "store"))
    keep_recipe(recipe())
    assert open_store(tmp_path / "store").list("recipes/") == [f"recipes/{recipe().label}.json"]


def test_a_recipe_can_lie_on_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_endpoint() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        make_bucket(endpoint, "models")
        body = yaml.safe_dump(MINIMAL).encode()
        raw_client(endpoint).put_object(Bucket="models", Key="recipes/half.yaml", Body=body)
        assert read_recipe("s3://models/recipes/half.yaml") == recipe()


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"sparsity": 2}}, "settings: sparsity: 2.0 is outside (0, 1); give the share of channels to drop"),
    (
        {"settings": {"sparsty": 0.5}},
        "settings: sparsty: no such setting; give one of tokenizer, sparsity, keep, energy, method",
    ),
    ({"settings": {"method": "best"}}, "settings: method 'best' is unknown; choose one of ghost"),
    ({"settings": {"model": "demo"}}, "settings: model is different for each checkpoint"),
    ({"settings": {"out": "/x"}}, "settings: out is different for each checkpoint"),
    ({"settings": {"max_perplexity": 20}}, "settings: max_perplexity is a limit of the quality gate; give it under"),
    ({"settings": ["sparsity"]}, "settings: Input should be a valid dictionary (got ['sparsity'])"),
    ({"settings": {"store": "runs"}}, "settings: store: 'runs' is no absolute path; give one, or s3://bucket/path"),
    ({"settings": {"calibration": "a.txt"}}, "settings: calibration: 'a.txt' is no absolute path; give one, or s3://"),
    ({"gate": {"max_perplexity": -1}}, "gate.max_perplexity: Input should be greater than 0 (got -1)"),
    ({"gate": {"max_perplexity": float("nan")}}, "gate.max_perplexity: Input should be a finite number (got nan)"),
    ({"gate": {"perplexity": 1}}, "gate.perplexity: no such field; give one of max_perplexity, max_perplexity_rise"),
    ({"nmae": "x"}, "nmae: no such field; give one of name, source, publish"),
    ({"name": "Half Size"}, "name: String should match pattern"),
    ({"source": "models"}, "source: 'models' is no source; give an absolute folder, s3://bucket/prefix or hf:"),
    ({"source": "hf:org/model"}, "source: 'hf:org/model' is no source"),
    ({"publish": "hf:org"}, "publish: 'hf:org' is no place to publish to; give an absolute folder or s3://"),
    ({"publish": "/models/new/"}, "source and publish are both /models/new; publish to a folder of its own"),
    ({"max_attempts": 0}, "max_attempts: Input should be greater than or equal to 1 (got 0)"),
    ({"max_attempts": True}, "max_attempts: Input should be a valid integer (got True)"),
    ({"families": ["mamba2", "jamba"]}, "families: 'jamba' is no family that ghost prunes; give some of mamba2, zamb"),
    ({"families": ["ghost_mamba2"]}, "families: 'ghost_mamba2' is no family that ghost prunes; give some of mamba2,"),
    ({"families": []}, "families: none is listed; give some of mamba2, zamba2, bamba, falcon_h1, granitemoehybrid, n"),
    ({"families": "mamba2"}, "families: Input should be a valid tuple (got 'mamba2')"),
    ({"stale_hours": "soon"}, "stale_hours: Input should be a valid number"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_refused_in_one_line_with_file_and_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(SettingsError) as refused:
        read_recipe(path)
    assert f"recipe {path}: {message}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: half\nsource: /a\n", "publish: not given; Where finished checkpoints go"),
        ("name: [half\n", "is not YAML (while parsing a flow sequence"),
        ("!!python/object/apply:os.system ['true']", "is not YAML (could not determine a constructor for the tag"),
        ("", "the whole: Input should be a valid dictionary"),
        ("- half\n", "the whole: Input should be a valid dictionary"),
        ("name: \0", "is not YAML (unacceptable character"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_recipe(str(path))
    assert str(refused.value).startswith(f"recipe {path}")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"recipe .*none.yaml cannot be read \(No such file"):
        read_recipe(str(tmp_path / "none.yaml"))


def test_every_field_of_a_recipe_is_described() -> None:
    for model in (Recipe, Gate):
        assert all(field.description for field in model.model_fields.values())
