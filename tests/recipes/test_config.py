"""Options, presets and plans: what is given is checked once and says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest

from tsallis import recipes
from tsallis.core.errors import RegistryError
from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError, RunConfig, build, checked, options, plain
from tsallis.recipes._shared.files import RunError


@dataclass(frozen=True)
class Config(RunConfig):
    """A recipe's.

    Attributes:
        widths: of layers.
        rate: of learning.
        cap: an optional limit.
    """

    widths: tuple[int, ...] = (4, 5)
    rate: float = 0.1
    cap: int | None = None


def test_values_get_their_declared_types() -> None:
    config = build(Config, {"widths": [1, 2], "rate": 1, "cap": "3"}, "here")
    assert config == Config(widths=(1, 2), rate=1.0, cap=3)
    assert build(Config, plain(config), "here") == config
    assert checked(Config, {"rate": 2}, "here") == {"rate": 2.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, r"here: 'rat'. Expected one of: .*Perhaps rate was meant"),
        ({"rate": "fast"}, "here: rate=fast. Expected float"),
        ({"seed": 1.5}, "here: seed=1.5. Expected int"),
        ({"seed": None}, "here: seed=null. Expected int"),
        ({"cap": "x"}, "here: cap=x. Expected int or null"),
        ({"widths": ["a"]}, "here: widths=a. Expected int"),
        ({"widths": 3}, "here: .*widths"),
        ({"seed": -1}, "seed=-1. Expected 0 or more"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes=-1.0. Expected 0 or more"),
    ],
)
def test_what_does_not_fit_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Config, values, "here")


PRESETS = {
    "default": {
        "title": "T",
        "config": {"rate": 0.5},
        "method": "cap",
        "rows": {"one": {"set": {"cap": 1, "rate": 0.1}, "published": {"text": "9"}}, "two": {"set": {"cap": 2}}},
        "seeds": [7, 8],
    },
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan, "_preset", lambda recipe, preset: PRESETS[preset])

    def make(**given: object) -> list[tuple]:
        made = plan.make_plan(SimpleNamespace(Config=Config), "toy", "default", given)
        return [(m.row, m.config.cap, m.config.rate, m.config.seed, bool(m.published)) for m in made.members]

    return make


def test_a_plan_is_every_row_with_every_seed(planned) -> None:
    assert planned() == [
        *(("one", 1, 0.1, seed, True) for seed in (7, 8)),
        *(("two", 2, 0.5, seed, False) for seed in (7, 8)),
    ]


def test_a_method_chooses_rows_and_other_options_replace_values(planned) -> None:
    assert planned(seed=3) == [("one", 1, 0.1, 3, True), ("two", 2, 0.5, 3, False)]
    assert planned(seed=3, cap=2) == [("two", 2, 0.5, 3, False)]
    assert planned(seed=3, cap=1, threads=2) == [("one", 1, 0.1, 3, True)]
    # A value of which no row knows takes what holds for all rows; published figures belong to the published values.
    assert planned(seed=3, cap=5) == [("cap=5", 5, 0.5, 3, False)]
    assert planned(seed=3, rate=0.3) == [("one", 1, 0.3, 3, False), ("two", 2, 0.3, 3, False)]
    assert planned(seed=3, cap=5, rate=0.3) == [("cap=5", 5, 0.3, 3, False)]


def test_what_was_changed_stands_in_the_title() -> None:
    recipe = recipes.load("ssvae")
    own, short, wide = (
        plan.make_plan(recipe, "ssvae", "paper", given)
        for given in ({"threads": 1}, {"epochs": 3, "threads": 1}, {"devices": 2})
    )
    assert {m.row for m in own.members if not m.published} == {"ST-Gumbel", "sum and sample", "leave one out"}
    assert short.title == own.title + " (epochs=3)"
    assert wide.title == own.title + " (devices=2)", "a step sees twice as many examples"
    assert not any(member.published for member in (*short.members, *wide.members))


def test_recipes_have_what_the_command_line_asks_for() -> None:
    for name in recipes.names():
        assert recipes.summary(name).endswith(".")
        assert {"default", "smoke"} <= set(recipes.presets(name))
        recipe = recipes.load(name)
        text = options(recipe.Config, "x").format_help()
        for field in fields(recipe.Config):
            help_ = text.split(f"--{field.name} ")[-1].split("(type")[0].split()
            assert len(help_) > 1, f"{name}: {field.name} has no help"
        for preset in recipes.presets(name):
            made = plan.make_plan(recipe, name, preset, {})
            assert made.members
            assert made.title
    with pytest.raises(RegistryError, match="ssvae"):
        recipes.load("nonsense")


def test_a_plan_survives_its_file(tmp_path) -> None:
    recipe = recipes.load("ssvae")
    made = plan.make_plan(recipe, "ssvae", "paper", {"epochs": 3})
    made.save(tmp_path)
    assert plan.Plan.load(tmp_path, recipe) == made
    (tmp_path / "run.yaml").write_text((tmp_path / "run.yaml").read_text().replace("recipe: ssvae", "recipe: other"))
    with pytest.raises(RunError, match=r"is a run of other\. Expected ssvae"):
        plan.Plan.load(tmp_path, recipe)
