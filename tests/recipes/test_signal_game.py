"""The signalling game: data, games, agents, and its smoke preset as a user runs it."""

from __future__ import annotations

import os
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError, build
from tsallis.recipes._shared.datasets import DataError, split_hash
from tsallis.recipes._shared.files import read_table
from tsallis.recipes.signal_game import recipe
from tsallis.recipes.signal_game.config import Config
from tsallis.recipes.signal_game.data import VGG, Images, load
from tsallis.recipes.signal_game.fast import mixture_of_sigmoids, row_products
from tsallis.recipes.signal_game.figures import figures
from tsallis.recipes.signal_game.model import Receiver, Training, nll, right

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "signal_game", "smoke", {}).members
SMALL = Config(images=4, symbols=6, embedding=5, hidden=7, temperature=1.0, batch_size=8)


def _images(concepts: int = 20, each: int = 3, width: int = 5) -> Images:
    draws = torch.Generator().manual_seed(0)
    concept = torch.arange(concepts).repeat_interleave(each)[torch.randperm(concepts * each, generator=draws)]
    features = torch.randn(len(concept), width, generator=draws)
    features[:, 0] = concept + 100.0  # so that a feature tells its concept, whatever its length
    features[:, 1] = 100.0
    return Images(features, concept, "here")


def _concept(x: Tensor) -> Tensor:
    return (x[..., 0] / x[..., 1] * 100 - 100).round().long()


def test_a_game() -> None:
    images = _images()
    n = 40_000
    x, label = images.games(n, 16, torch.Generator().manual_seed(1)).batch(torch.arange(n))
    assert x.shape == (n, 16, 5)
    assert torch.allclose(x.norm(dim=-1), torch.ones(n, 16))
    concept = _concept(x)
    assert (concept.sort(-1).values.diff() > 0).all(), "a concept twice"
    # Uniform: positions of the target, concepts at every position, pairs of neighbours, images of a concept.
    for counts in (
        label.bincount(minlength=16),
        concept[:, 3].bincount(minlength=20),
        concept.gather(1, label[:, None])[:, 0].bincount(minlength=20),
        (20 * concept[:, 0] + concept[:, 1]).bincount(minlength=400)[torch.eye(20).flatten() == 0],
        torch.cat([x[concept == 7][:, 2]]).unique(return_counts=True)[1],
    ):
        expected = counts.sum() / len(counts)
        chi = ((counts - expected).square() / expected).sum()
        assert abs(chi - (len(counts) - 1)) < 5 * (2 * len(counts)) ** 0.5
    assert len(x[concept == 7][:, 2].unique()) == 3
    with pytest.raises(ConfigError, match=r"images=21\. Expected at most 20, the concepts of here"):
        images.games(3, 21, torch.Generator())


def test_a_concept_of_one_image_and_one_of_many() -> None:
    concept = torch.tensor([4, 9, 4, 4, 4])
    images = Images(torch.eye(5), concept, "here")
    games = images.games(4000, 2, torch.Generator().manual_seed(2))
    x, _ = games.batch(torch.arange(4000))
    seen = x.argmax(-1)
    assert ((seen == 1).sum(-1) == 1).all()
    assert (seen.flatten().bincount(minlength=5)[[0, 2, 3, 4]] - 1000).abs().max() < 150


def test_the_games_of_an_evaluation_are_fixed() -> None:
    config = Config(validation_games=70, test_games=130)
    data = load(config)
    for other in (replace(config, seed=5, batch_size=3, steps=100), replace(config, estimator="softmax", lr=0.1)):
        again = load(other)
        assert again.hash == data.hash
        for one, two in ((data.validation, again.validation), (data.test, again.test)):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.label, two.label)
    parts = (data.validation.images, data.validation.label, data.test.images, data.test.label)
    assert data.hash == split_hash([part.numpy() for part in parts])
    assert load(replace(config, images=15)).hash != data.hash
    # Made train and test images are others, of the same concepts.
    assert not torch.equal(data.train.features, data.test.features)
    whole = data.test.batch(torch.arange(130))
    for batch_size in (1, 64):
        parts = list(recipe._all(data.test, replace(config, batch_size=batch_size)))
        assert torch.equal(torch.cat([x for x, _ in parts]), whole[0])
        assert torch.equal(torch.cat([label for _, label in parts]), whole[1])


def test_games_to_train_with_are_new_in_every_step_and_the_same_after_a_restart() -> None:
    images, config = _images(), replace(SMALL, epoch_steps=5, seed=3)

    def epoch(number: int, skip: int = 0, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
        stream = recipe._stream(images, replace(config, seed=seed))
        stream._order.set_epoch(number)
        stream.load_state_dict({"done": skip})
        return list(stream)

    first, second = epoch(0), epoch(1)
    assert [len(label) for _, label in first] == [8] * 5
    rows = torch.cat([x.flatten(1) for x, _ in first + second])
    assert len(rows.unique(dim=0)) == len(rows)
    for (x, label), (y, other) in zip(epoch(1, skip=2), second[2:], strict=True):
        assert torch.equal(x, y)
        assert torch.equal(label, other)
    assert not torch.equal(epoch(1, seed=4)[0][0], second[0][0])


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
    task, batch = Training(SMALL, 5), _images().games(8, 4, torch.Generator()).batch(torch.arange(8))
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
    images = _images()
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
    runs[1].result["published"] = {"text": "93.35"}
    assert [row["published (rows)"] for row in recipe.table(runs)][:3] == ["-", "93.35", "-"]


@pytest.mark.parametrize("member", SMOKE, ids=lambda m: m.row)
def test_an_interrupted_training_ends_as_one_that_was_not(member, smoke, tmp_path: Path) -> None:
    """In the middle of the second epoch: what estimators have learned is as it was, and so are the games."""
    results, _, folder = smoke
    again, begun = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=48)
    assert begun == 120 + 1, "one step twice"
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
    assert {m.config.reward for row, m in first.items() if row in ("SFE", "SFE+")} == {"accuracy"}
    assert {m.config.reward for row, m in first.items() if row not in ("SFE", "SFE+")} == {"nll"}
    own = {"steps": 50_000, "batch_size": 64, "images": 16, "symbols": 256, "embedding": 256, "hidden": 512}
    own |= {"temperature": 10.0, "validation_games": 16 * 64, "test_games": 156 * 64, "gumbel_rate": 1e-5}
    assert own.items() <= {name: getattr(first["Gumbel"].config, name) for name in own}.items()


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_the_stand_in() -> None:
    data = load(Config(dataset="lite0"))
    assert data.train.features.shape == (10_000, 1280)
    assert data.train.count.tolist() == [50] * 200
    assert data.test.features.shape == (4000, 1280)
    assert (len(data.validation), len(data.test)) == (1024, 9984)
    assert torch.allclose(data.train.features.norm(dim=-1), torch.ones(10_000))


def _npz(folder: Path, part: str, **arrays: np.ndarray) -> None:
    (folder / "signal-game").mkdir(exist_ok=True, parents=True)
    np.savez(folder / "signal-game" / f"{part}.npz", **arrays)


def test_files_that_are_not_the_data(tmp_path: Path) -> None:
    config = Config(dataset="lite0", data_dir=str(tmp_path), images=2, validation_games=5, test_games=5)
    with pytest.raises(DataError, match="there is no folder"):
        load(config)
    features, concept = np.ones((3, 4), np.float16), np.array([0, 1, 1], np.int16)
    _npz(tmp_path, "test", features=features, concept=concept)
    with pytest.raises(DataError, match=r"has no file train\.npz"):
        load(config)
    for arrays in (
        {"features": features},
        {"features": features, "concept": concept[:2]},
        {"features": features, "concept": concept.astype(float)},
        {"features": features.astype(int), "concept": concept},
        {"features": features * np.float16("nan"), "concept": concept},
        {"features": features[:0], "concept": concept[:0]},
        {"features": np.array([{}], object), "concept": concept},
    ):
        _npz(tmp_path, "train", **arrays)
        with pytest.raises(DataError, match="Get the file again"):
            load(config)
    for content in (b"", b"PK\x03\x04 half a file"):
        (tmp_path / "signal-game" / "train.npz").write_bytes(content)
        with pytest.raises(DataError, match="Get the file again"):
            load(config)
    _npz(tmp_path, "train", features=features, concept=concept)
    assert load(config).train.count.tolist() == [1, 2]
    with pytest.raises(ConfigError, match=r"images=3. Expected at most 2, the concepts of .*train\.npz"):
        load(replace(config, images=3))


def test_the_published_format(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    folder = tmp_path / VGG.folder
    random = np.random.default_rng(0)
    labels = np.array(["dog", "cat", "cat", "emu", "dog"])
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        features = random.normal(size=(5, 7)).astype(np.float32)
        with h5py.File(folder / part / "ours_images_single_sm0.h5", "w") as file:
            file["dataset_1"] = features
        (folder / part / "ours_images_single_sm0.objects").write_bytes(pickle.dumps(labels, 2))
    config = Config(dataset="vgg", data_dir=str(tmp_path), images=3, validation_games=5, test_games=5)
    data = load(config)
    assert data.train.count.tolist() == [2, 2, 1]
    wanted = features[[1, 2, 0, 4, 3]]
    assert np.allclose(data.test.features, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    for wrong in ([1, 2, 3, 4, 5], labels[:4], np.arange(5), np.stack([labels, labels])):
        (folder / "train" / "ours_images_single_sm0.objects").write_bytes(pickle.dumps(wrong))
        with pytest.raises(DataError, match="Get the file again"):
            load(config)


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
