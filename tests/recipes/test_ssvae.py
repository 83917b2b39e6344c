"""The semi-supervised VAE: data, model, and its smoke preset as a user runs it."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError, build
from tsallis.recipes._shared.datasets import DataError, split_hash
from tsallis.recipes._shared.files import RunError
from tsallis.recipes.ssvae import recipe
from tsallis.recipes.ssvae.config import Config
from tsallis.recipes.ssvae.data import load
from tsallis.recipes.ssvae.model import SemiSupervisedVAE, Training

from .conftest import train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "ssvae", "smoke", {}).members


def test_every_image_has_one_place() -> None:
    data = load(Config())
    parts = [data.labelled, data.unlabelled, data.validation, data.test]
    assert [len(p) for p in parts] == [120, 1080, 200, 397]
    assert data.validation.x.unique().tolist() == data.test.x.unique().tolist() == [0, 1]
    assert torch.equal(load(Config(seed=7, estimator="softmax")).test.x, data.test.x)
    assert load(Config(seed=7)).hash == data.hash != load(Config(labelled=0.2)).hash
    with pytest.raises(ConfigError, match="labelled"):
        load(Config(labelled=1e-6))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_the_published_split() -> None:
    """Hashes of the index files of the published experiment."""
    random = np.random.RandomState(351245)
    validation = random.choice(60000, 10000, replace=False)
    rest = np.setdiff1d(np.arange(60000), validation)
    labelled = random.choice(rest, 5000, replace=False)
    unlabelled = np.setdiff1d(rest, labelled)
    starts = {"85b983441c6e13bd": validation, "9a861b16dc6be35a": labelled, "c3fb074e88f6aa91": unlabelled}
    for start, part in starts.items():
        assert split_hash([part]).startswith(start)
    data = load(Config(dataset="mnist"))
    assert data.hash == split_hash(starts.values())
    assert data.labelled.y.bincount().tolist() == [490, 525, 513, 479, 499, 482, 499, 526, 461, 526]
    assert [len(p) for p in (data.labelled, data.unlabelled, data.validation, data.test)] == [5000, 45000, 10000, 10000]
    assert data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # Batches: each label nine times an epoch, always beside the same nine images.
    assert -(-len(data.unlabelled) // Config().batch_size) == 704
    positions = torch.arange(45000)
    assert torch.equal(data.both(positions)[2].reshape(9, 5000), data.labelled.y.expand(9, 5000))


@pytest.mark.parametrize("estimator", ["softmax", "sparsemax", "entmax15"])
def test_the_objective_is_the_dense_sum(estimator: str) -> None:
    """By brute force over classes, with the noise of the encoder switched off."""
    config = Config(estimator=estimator)
    torch.manual_seed(1)
    model = SemiSupervisedVAE(config, 16).double()
    model.encoder[-1].bias.data[config.latent :] = -60  # standard deviation e^-60
    model.encoder[-1].weight.data[config.latent :] = 0
    rows: list[int] = []
    model.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    task = Training(model, config, ratio=9.0)
    x = torch.rand(5, 16).round().double()
    e = task.expected(x, model.classifier(x))
    table = torch.stack([model.losses(x)(torch.arange(5), torch.full((5,), y)) for y in range(10)], -1)
    loss = (e.probs * table).sum(-1)
    entropy = -torch.special.xlogy(e.probs, e.probs).sum(-1)
    assert torch.allclose(e.objective, (loss - entropy).mean(), rtol=1e-12)
    assert rows[0] == e.rows == int(e.support_size.sum())
    for got, wanted in zip(
        torch.autograd.grad(e.objective, list(model.parameters()), retain_graph=True),
        torch.autograd.grad((loss - entropy).mean(), list(model.parameters())),
        strict=True,
    ):
        assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-12)
        assert wanted.abs().max() > 0


def test_the_loss_of_an_image() -> None:
    """Binary cross-entropy and the Gaussian divergence, written as torch.distributions has them."""
    torch.manual_seed(2)
    config = Config()
    model = SemiSupervisedVAE(config, 16)
    x, y = torch.rand(3, 16).round(), torch.tensor([1, 2, 3])
    mean, log_std = model.encoder(torch.cat([x, torch.nn.functional.one_hot(y, 10)], -1)).chunk(2, -1)
    torch.manual_seed(3)
    loss = model.losses(x)(torch.arange(3), y)
    torch.manual_seed(3)
    h = mean + log_std.exp() * torch.randn_like(mean)
    q = torch.distributions.Normal(mean, log_std.exp())
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    pixels = torch.distributions.Bernoulli(logits=model.decode(h, y)).log_prob(x).sum(-1)
    assert torch.allclose(loss, divergence - pixels, rtol=1e-5)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """Both rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    # The digits come with scikit-learn; that data_dir is read stands in test_parts.py.
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    dense, sparse = results["dense"], results["sparse"]
    assert dense.metrics["rows"] == 10
    assert 1 <= sparse.metrics["rows"] < 10
    assert 1 <= sparse.metrics["support"] < 10
    assert dense.split == sparse.split == load(Config()).hash
    assert {p.name for p in (folder / SMOKE[0].name).iterdir()} == {
        *("checkpoints", "metrics.csv", "model.safetensors", "samples.safetensors"),
    }


def test_the_same_seed_gives_the_same_result(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    sparse = next(m for m in SMOKE if m.row == "sparse")
    again = recipe.train(sparse.config, tmp_path / "again")
    assert replace(again, seconds=0) == replace(results["sparse"], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "samples.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / sparse.name / name).read_bytes()
    other = recipe.train(replace(sparse.config, seed=1), tmp_path / "other")
    assert other.metrics["elbo"] != again.metrics["elbo"]


@pytest.mark.parametrize("member", SMOKE, ids=lambda m: m.config.estimator)
def test_an_interrupted_training_ends_as_one_that_was_not(member, smoke, tmp_path: Path) -> None:
    """Whatever the estimator learns or counts, in the middle of the second epoch."""
    results, _, folder = smoke
    again, begun = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=22)
    assert len(begun) == 2 * 17 + 1, "one step twice"
    assert replace(again, seconds=0) == replace(results[member.row], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "samples.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()


def test_a_finished_training_is_not_trained_again(smoke) -> None:
    results, _, folder = smoke
    member = SMOKE[0]
    before = (folder / member.name / "metrics.csv").stat().st_mtime_ns
    assert recipe.train(member.config, folder / member.name) == results[member.row]
    assert (folder / member.name / "metrics.csv").stat().st_mtime_ns == before


def test_a_training_is_deterministic_and_leaves_the_process_as_it_was(smoke, tmp_path, monkeypatch) -> None:
    seen: list[tuple[bool, bool, int]] = []
    mode: Any = torch.utils.deterministic
    step = Training.training_step

    def watched(self, batch, number):
        seen.append(
            (torch.are_deterministic_algorithms_enabled(), mode.fill_uninitialized_memory, torch.get_num_threads())
        )
        return step(self, batch, number)

    monkeypatch.setattr(Training, "training_step", watched)
    threads = torch.get_num_threads()
    recipe.train(replace(SMOKE[0].config, epochs=1, threads=3), tmp_path / "run")
    assert set(seen) == {(True, False, 3)}
    assert not torch.are_deterministic_algorithms_enabled()
    assert mode.fill_uninitialized_memory
    assert torch.get_num_threads() == threads


def test_a_training_that_diverges_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the training diverged\. Expected finite losses\. Try a smaller learning rate"):
        recipe.train(replace(SMOKE[1].config, lr=1e8, warm_epochs=0), tmp_path / "run")


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    for name, shape in (("train-images", (60000, 28, 28)), ("train-labels", (60000,)), ("t10k-labels", (10000,))):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        path = tmp_path / "mnist" / f"{name}-idx{len(shape)}-ubyte"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(header + bytes(int(np.prod(shape))))
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: classes \[0\]\. Expected all of 0 to 9"):
        load(Config(dataset="mnist", data_dir=str(tmp_path)))


@pytest.mark.data
@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
@pytest.mark.parametrize("row", ["dense", "sparse"])
def test_mnist_in_ten_epochs(row: str, tmp_path: Path) -> None:
    member = next(m for m in plan.make_plan(recipe, "ssvae", "mnist", {"seed": 43}).members if m.row == row)
    result = recipe.train(member.config, tmp_path / "run")
    assert result.value > 0.93
    # Of softmax only probabilities that underflow are left out.
    assert 9.5 < result.metrics["rows"] <= 10 if row == "dense" else result.metrics["rows"] < 2


def test_values_that_make_no_sense() -> None:
    for values, message in [
        ({"labelled": 0}, "labelled=0.0. Expected a number between 0 and 1"),
        ({"epochs": 0}, "epochs=0. Expected at least 1"),
        ({"lr": -1}, "lr=-1.0. Expected more than 0"),
        ({"classifier": [0]}, r"classifier=\(0,\). Expected widths"),
        ({"max_rows": 0}, "max_rows=0. Expected at least 1, or null"),
        ({"dataset": "cifar"}, "dataset=cifar. Expected "),
        ({"estimator": "nonsense"}, "estimator='nonsense'. Expected .*sparsemax"),
        ({"estimator": "budget"}, "estimator='budget'. Expected .*sparsemax"),
        ({"precision": "64-true"}, "precision=64-true. Expected "),
        ({"precision": "3-bit"}, "precision=3-bit. Expected "),
        ({"accelerator": "abacus"}, "accelerator=abacus. Expected "),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(Config, values, "here")
