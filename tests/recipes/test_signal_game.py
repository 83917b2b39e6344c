"""The signalling game: agents, and its smoke preset as a user runs it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError, build
from tsallis.recipes._shared.estimators import names
from tsallis.recipes._shared.files import read_table
from tsallis.recipes.signal_game import model, recipe
from tsallis.recipes.signal_game.config import Config
from tsallis.recipes.signal_game.data import load
from tsallis.recipes.signal_game.fast import mixture_of_sigmoids, row_products
from tsallis.recipes.signal_game.figures import figures
from tsallis.recipes.signal_game.model import Receiver, Training, nll, right

from .conftest import finished_runs, train_interrupted, train_watched
from .test_signal_game_data import some_images

SMOKE = plan.make_plan(recipe, "signal_game", "smoke", {}).members
SMALL = Config(images=4, symbols=6, embedding=5, hidden=7, temperature=1.0, batch_size=8)


@pytest.mark.parametrize(("rows", "filters"), [((3, 4), 5), ((0,), 5), ((1,), 1), ((700,), 300)])
def test_the_mixture_of_sigmoids(rows: tuple[int, ...], filters: int) -> None:
    """Against its plain form, in more chunks than one; saturated ones too."""
    torch.manual_seed(4)
    inputs = [(3 * torch.randn(n, dtype=torch.float64)).requires_grad_() for n in (rows, (filters,), (filters,))]
    if rows == (3, 4):
        inputs[0].data[0, 0] = 1e4
    fast = mixture_of_sigmoids(*inputs)
    h, w, v = inputs
    plain = (h[..., None] * w).sigmoid() @ v
    assert fast.shape == plain.shape
    assert torch.allclose(fast, plain, rtol=1e-10, atol=1e-10)
    outer = torch.randn_like(plain)
    for got, wanted in zip(
        torch.autograd.grad(fast, inputs, outer), torch.autograd.grad(plain, inputs, outer), strict=True
    ):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10)
        assert wanted.numel() == 0 or not len(plain) or wanted.abs().max() > 1e-3


def test_the_operators_in_half_precision() -> None:
    torch.manual_seed(5)
    task, batch = Training(SMALL, 5), some_images().games(8, 4, torch.Generator()).batch(torch.arange(8))
    with torch.autocast("cpu", torch.bfloat16):
        half = task.expected(batch, task.scores(batch), nll, 0.1).objective
    whole = task.expected(batch, task.scores(batch), nll, 0.1).objective
    for got, wanted in zip(
        *(torch.autograd.grad(loss, [p for p in task.parameters() if p.numel()]) for loss in (half, whole)),
        strict=True,
    ):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.1 * wanted.norm()
        assert wanted.norm() > 0


@pytest.mark.parametrize("few", [True, False])
def test_row_products(few: bool) -> None:
    """Some vectors twice with the same images, some with none; few of all pairs, and most."""
    torch.manual_seed(6)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    q = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    index, place = torch.tensor([0, 0, 2, 2, 2, 3]), torch.tensor([5, 1, 1, 1, 0, 5])
    if not few:
        index, place = index.repeat_interleave(3), torch.cat([place, place, place])
    assert few == (2 * len(place) <= len(x) * len(q))
    fast = row_products(x, q, index, place)
    plain = (q[place][:, None] * x[index]).sum(-1)
    assert torch.allclose(fast, plain, rtol=1e-12)
    outer = torch.randn_like(plain)
    (got,), (wanted,) = (torch.autograd.grad(y, q, outer) for y in (fast, plain))
    assert torch.allclose(got, wanted, rtol=1e-12)
    assert (wanted[2:5] == 0).all()


def test_the_sender() -> None:
    """It sees the target alone; its scores are those of the plain layers."""
    torch.manual_seed(7)
    task = Training(replace(SMALL, temperature=10.0), 5).double()
    x, label = torch.randn(8, 4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    scores = task.scores((x, label))
    s = task.sender
    h = x[torch.arange(8), label] @ s.image.weight.T
    hidden = torch.nn.functional.conv2d(h[:, None, None], s.filters[:, None, None, None]).sigmoid()
    mixed = torch.nn.functional.conv2d(hidden, s.mixture[None, :, None, None]).sigmoid()[:, 0, 0]
    assert torch.allclose(scores, mixed @ s.symbols.weight.T / 10, rtol=1e-12)
    others = x.clone()
    others[torch.arange(8), label] *= -1
    assert not torch.isclose(task.scores((others, label)), scores).all(-1).any()
    assert torch.equal(task.scores((torch.where(others == x, 7.0, x), label)), scores)


def test_the_receiver() -> None:
    torch.manual_seed(8)
    receiver = Receiver(SMALL, 5).double()
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    index, z = torch.tensor([0, 1, 1, 2]), torch.tensor([5, 0, 5, 3])
    heard = receiver(x, index, z)
    images, symbols = receiver.image(x), receiver.symbols.weight
    plain = torch.stack([images[i] @ symbols[k] for i, k in zip(index, z, strict=True)])
    assert torch.allclose(heard, plain, rtol=1e-12)
    assert torch.allclose(receiver(x, index, torch.nn.functional.one_hot(z, 6).double()), heard, rtol=1e-12)
    assert torch.allclose(receiver.table(x)[index, z], heard, rtol=1e-12)
    mixed = torch.rand(4, 6, dtype=torch.float64)
    assert torch.allclose(
        receiver(x, index, mixed), torch.einsum("rk,rkn->rn", mixed, receiver.table(x)[index]), rtol=1e-12
    )


@pytest.mark.parametrize(("estimator", "table"), [("softmax", True), ("softmax", False), ("sparsemax", False)])
def test_the_objective_is_the_sum_over_all_symbols(estimator: str, table: bool) -> None:
    torch.manual_seed(9)
    task = Training(replace(SMALL, estimator=estimator, table=table, entropy_weight=0.3, temperature=0.3), 5).double()
    x = torch.randn(8, 4, 5, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    step = task.training_step((x, label), 0)
    scores = task.scores((x, label))
    p = torch.softmax(scores, -1) if estimator == "softmax" else task.expected((x, label), scores, nll).probs
    log_q = (task.receiver.image(x)[:, None] * task.receiver.symbols.weight[:, None]).sum(-1).log_softmax(-1)
    entropy = -(p * torch.where(p > 0, p, 1).log()).sum(-1)
    plain = ((p * -log_q[torch.arange(8), :, label]).sum(-1) - 0.3 * entropy).mean()
    assert torch.allclose(step["loss"], plain, rtol=1e-12)
    assert step["metrics"]["rows"] == int((p > 0).sum()) / 8
    assert step["metrics"]["calls"] == 1
    parameters = list(task.parameters())
    for got, wanted in zip(
        torch.autograd.grad(step["loss"], parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)
        assert wanted.abs().max() > 0
    if estimator == "sparsemax":
        assert 1 < step["metrics"]["rows"] < 6


def test_the_learning_rate_rises() -> None:
    """By which the first steps of Adam, each of about the learning rate, become smaller."""
    images = some_images()
    rates, moved = [], []
    for warmup in (0, 4):
        torch.manual_seed(1)
        task = Training(replace(SMALL, warmup=warmup, lr=0.01, entropy_weight=0.0), 5)
        both = task.configure_optimizers()
        optimizer, scheduler = both["optimizer"], both["lr_scheduler"]["scheduler"]
        before = task.sender.mixture.detach().clone()
        for number in range(6):
            rates.append(optimizer.param_groups[0]["lr"])
            batch = images.games(8, 4, torch.Generator().manual_seed(number)).batch(torch.arange(8))
            task.training_step(batch, number)["loss"].backward()
            optimizer.step()
            scheduler.step()
            if number == 0:
                moved.append(float((task.sender.mixture.detach() - before).abs().max()))
    assert rates == pytest.approx([0.01] * 6 + [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert moved == pytest.approx([0.01, 0.0025], rel=1e-3)


@pytest.mark.parametrize("reward", ["nll", "accuracy"])
@pytest.mark.parametrize("estimator", names("categories"))
def test_every_parameter_learns(estimator: str, reward: str) -> None:
    """With each estimator and either reward: several processes wait for the gradient of all parameters."""
    torch.manual_seed(11)
    task = Training(replace(SMALL, estimator=estimator, reward=reward), 5)
    task.training_step(some_images().games(8, 4, torch.Generator()).batch(torch.arange(8)), 0)["loss"].backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    if estimator not in ("fusedmax", "oscarmax"):  # which fuse scores that are close: all guesses are as probable
        assert task.receiver.symbols.weight.grad.abs().max() > 0  # pyright: ignore[reportOptionalMemberAccess]


def test_measures() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    assert right(scores, torch.tensor([0, 2])).tolist() == [1, 0]
    wanted = -scores.log_softmax(-1)[[0, 1], [0, 2]]
    assert torch.allclose(nll(scores, torch.tensor([0, 2])), wanted)
    assert torch.allclose(nll(scores.expand(5, 2, 3), torch.tensor([0, 2]).expand(5, 2)), wanted.expand(5, 2))


@pytest.mark.parametrize("estimator", ["sfe", "sfe+", "rloo"])
def test_a_drawn_guess_has_the_gradient_of_the_exact_sum(estimator: str) -> None:
    """Both agents trained with accuracy: the mean gradient of draws against all symbols and all images."""
    torch.manual_seed(10)
    weight, n = 0.2, 60_000
    task = Training(replace(SMALL, estimator=estimator, reward="accuracy", entropy_weight=weight), 5)
    task.receiver.symbols.weight.data *= 2
    x, label = torch.randn(1, 4, 5), torch.tensor([1])
    table = task.receiver.table(x)[0].detach().requires_grad_()
    scores = task.scores((x, label)).detach().requires_grad_()
    p, q = scores[0].softmax(-1), table.softmax(-1)
    exact = (p * (-q[:, 1] + weight * (q * q.log()).sum(-1))).sum() + weight * (p * p.log()).sum()
    wanted = torch.autograd.grad(exact, [scores, table])

    def receiver(_: Tensor, index: Tensor, z: Tensor) -> Tensor:
        return table[z]

    task.receiver.forward = receiver  # pyright: ignore[reportAttributeAccessIssue]
    many = (x.expand(n, -1, -1), label.expand(n))
    e = task.expected(many, scores.expand(n, -1), task.loss(weight), weight)
    got = torch.autograd.grad(e.objective, [scores, table])
    for one, two in zip(got, wanted, strict=True):
        assert (one - two).abs().max() < 0.02
        assert two.abs().max() > 0.02
    task.eval()
    lost = task.expected(many, scores.expand(n, -1), task.loss()).loss
    assert (lost.min(), lost.max()) == (-1, 0)
    assert abs(lost.mean() + (p * q[:, 1]).sum()) < 0.01


@pytest.mark.parametrize("estimator", ["softmax", "sparsemax", "gumbel", "sfe"])
@pytest.mark.parametrize("reward", ["nll", "accuracy"])
def test_what_is_measured(estimator: str, reward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against sums over all symbols. Gumbel is published at its first temperature; the loss that chooses weights has no
    entropy.
    """
    torch.manual_seed(12)
    config = replace(SMALL, estimator=estimator, reward=reward, entropy_weight=5.0, temperature=0.3, gumbel_rate=1.0)
    task = Training(config, 5).eval()
    if estimator == "gumbel":
        task.estimator.method.steps.fill_(5000)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(model, "log_means", lambda _, stage, **values: seen.update(values))
    n = 8 if estimator in ("softmax", "sparsemax") else 4000
    x, label = some_images().games(8, 4, torch.Generator()).batch(torch.arange(n) % 8)
    scores, index = task.scores((x, label)).detach(), torch.arange(n)
    p = task.expected((x, label), scores, nll).probs
    q = task.receiver.table(x).softmax(-1)
    hit = (q.argmax(-1) == label[:, None]).float()
    torch.manual_seed(13)
    task.test_step((x, label), 0)
    assert torch.equal(seen["success"], hit[index, scores.argmax(-1)])
    exact = (p * hit).sum(-1)
    if estimator in ("softmax", "sparsemax"):
        assert torch.allclose(seen["expected"], exact, atol=1e-6)
        assert 0.01 < exact.mean() < 0.99
    else:
        assert set(seen["expected"].tolist()) <= {0.0, 1.0}
    if estimator == "sfe":
        assert abs(seen["expected"].mean() - exact.mean()) < 0.04
    if reward == "nll" and estimator == "gumbel":
        torch.manual_seed(13)
        task.expected((x, label), scores, right)
        wanted = right(torch.einsum("rk,rkn->rn", F.gumbel_softmax(scores, tau=1.0), task.receiver.table(x)), label)
        assert torch.equal(seen["released"], wanted)
    elif reward == "nll":
        assert torch.equal(seen["released"], seen["expected"])
    task.validation_step((x, label), 0)
    if reward == "accuracy":
        assert ((seen["loss"] <= 0) & (seen["loss"] >= -1 - 1e-6)).all()
    elif estimator in ("softmax", "sparsemax"):
        lost = -task.receiver.table(x).log_softmax(-1)[index, :, label]
        assert torch.allclose(seen["loss"], (p * lost).sum(-1), rtol=1e-5)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """All rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    # The smoke data needs no folder; that data_dir is read stands in test_parts.py.
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    rows = {row: result.metrics["rows"] for row, result in results.items()}
    assert rows["dense"] == 8
    assert 1 < rows["sparse"] < 8
    assert {rows[row] for row in ("SFE", "NVIL", "Gumbel", "ST-Gumbel", "sparsemixer")} == {1}
    assert rows["SFE+"] == rows["rloo"] == 2
    assert rows["sum and sample"] == 3
    # Fewer symbols have probability in the end than in the beginning: that is what the sum costs.
    sparse = read_table(folder / next(m.name for m in SMOKE if m.row == "sparse") / "metrics.csv")
    assert sparse[-1]["train/rows"] < sparse[0]["train/rows"]
    assert results["sparse"].value > 0.4, "no better than chance"
    for row, result in results.items():
        m = result.metrics
        assert result.split == load(SMOKE[0].config).hash
        assert min(result.value, m["expected"], m["released"]) >= 0
        assert max(result.value, m["expected"], m["released"]) <= 1
        assert 1 <= m["used"] <= 8
        assert m["calls"] == 1
        exact = row in ("dense", "sparse", "entmax15")
        assert (m["gradient_variance"] < 1e-12) == exact
        same = row not in ("SFE", "SFE+", "Gumbel")
        assert not same or m["released"] == m["expected"]
    assert results["SFE"].metrics["released"] != results["SFE"].metrics["expected"]
    assert {p.name for p in (folder / SMOKE[0].name).iterdir()} == {"checkpoints", "metrics.csv", "model.safetensors"}


def test_figures_and_table(smoke) -> None:
    results, _, folder = smoke
    runs = finished_runs(SMOKE, results, folder)
    for run in runs:
        run.result["published"] = {}
    assert set(figures(runs)) == {"success", "support", "cost", "variance"}
    assert set(figures(runs[:2])) == {"success", "support", "cost"}
    rows = recipe.table(runs)
    assert [row["method"] for row in rows] == [m.row for m in SMOKE]
    assert "published (rows)" not in rows[0]
    assert [row["gradient variance"] == "0.0000" for row in rows][:4] == [True, True, True, False]
    runs[1].result["published"] = {"text": "93.35"}
    assert [row["published (rows)"] for row in recipe.table(runs)][:3] == ["-", "93.35", "-"]


@pytest.mark.parametrize("member", SMOKE, ids=lambda m: m.row)
def test_an_interrupted_training_ends_as_one_that_was_not(member, smoke, tmp_path: Path) -> None:
    """In the middle of the second epoch: what estimators have learned is as it was, and so are the games."""
    results, _, folder = smoke
    again, begun = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=48)
    assert len(begun) == 120 + 1, "one step twice"
    assert replace(again, seconds=0) == replace(results[member.row], seconds=0)
    for name in ("metrics.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()


def test_what_was_published_stands_as_it_was_printed() -> None:
    first = {m.row: m for m in plan.make_plan(recipe, "signal_game", "paper", {"seed": 322}).members}
    seeds = [m.config.seed for m in plan.make_plan(recipe, "signal_game", "paper", {"estimator": "nvil"}).members]
    assert seeds == list(range(322, 332))
    assert {m.config.dataset for m in first.values()} == {"vgg"}
    shown = {row: (m.config.lr, m.config.entropy_weight, m.published.get("text")) for row, m in first.items()}
    assert shown == {
        "dense": (1e-3, 0.1, "93.37 ± 0.42 (256)"),
        "sparse": (5e-3, 0.1, "93.35 ± 0.50 (3.13 ± 0.48)"),
        "NVIL": (1e-3, 0.1, "37.04 ± 1.61 (1)"),
        "SFE": (1e-3, 0.01, "33.05 ± 2.84 (1)"),
        "SFE+": (1e-3, 0.05, "44.32 ± 2.72 (2)"),
        "sfe-nll": (1e-3, 0.05, None),
        "Gumbel": (1e-3, 0.01, "23.51 ± 16.19 (1)"),
        "ST-Gumbel": (1e-3, 0.01, "27.42 ± 13.36 (1)"),
    }
    # On other data every published figure says so.
    elsewhere = {m.row: m for m in plan.make_plan(recipe, "signal_game", "lite0", {"seed": 322}).members}
    marked = {row: f"{text}, other data" for row, (_, _, text) in shown.items() if text}
    assert {row: m.published["text"] for row, m in elsewhere.items() if m.published} == marked
    # And the title says what else differs.
    lite0 = plan.make_plan(recipe, "signal_game", "lite0", {})
    config = next(m.config for m in lite0.members if m.row == "sparse")
    assert (config.lr, config.warmup, len({m.config.seed for m in lite0.members})) == (1e-3, 2000, 3)
    for words in ("other data", "3 seeds", "rise in 2,000 steps, 0.001 for sparse", "10 seeds", "0.005 for sparse"):
        assert words in lite0.title
    assert {m.config.reward for row, m in first.items() if row in ("SFE", "SFE+")} == {"accuracy"}
    assert {m.config.reward for row, m in first.items() if row not in ("SFE", "SFE+")} == {"nll"}
    own = {"steps": 50_000, "batch_size": 64, "images": 16, "symbols": 256, "embedding": 256, "hidden": 512}
    own |= {"temperature": 10.0, "validation_games": 16 * 64, "test_games": 156 * 64, "gumbel_rate": 1e-5}
    assert own.items() <= {name: getattr(first["Gumbel"].config, name) for name in own}.items()


def test_values_that_make_no_sense() -> None:
    for values, message in [
        ({"estimator": "nonsense"}, "estimator='nonsense'. Expected one of: .*sparsemax.*nvil"),
        ({"estimator": "sparsemap"}, "estimator='sparsemap'. Expected "),
        ({"images": 1}, "images=1. Expected at least 2"),
        ({"steps": 150}, "steps=150. Expected a multiple of epoch_steps=100"),
        ({"steps": 0}, "steps=0. Expected at least 1"),
        ({"temperature": 0}, "temperature=0.0. Expected more than 0"),
        ({"warmup": -1}, "warmup=-1. Expected 0 or more"),
        ({"entropy_weight": -1}, "entropy_weight=-1.0. Expected 0 or more"),
        ({"table": True}, "table=True. Expected false, but for estimator softmax"),
        ({"table": True, "estimator": "softmax", "reward": "accuracy"}, "table=True. Expected false"),
        ({"reward": "praise"}, "reward=praise. Expected "),
        ({"dataset": "imagenet"}, "dataset=imagenet. Expected "),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(Config, values, "here")
