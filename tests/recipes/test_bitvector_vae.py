"""The bit-vector VAE: data, evaluation by enumeration, and its smoke preset as a user runs it."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError, build
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.estimators import names
from tsallis.recipes._shared.files import read_table, read_weights
from tsallis.recipes.bitvector_vae import evaluation, recipe
from tsallis.recipes.bitvector_vae.config import Config
from tsallis.recipes.bitvector_vae.data import SMOOTHING, Split, histogram_floor, load
from tsallis.recipes.bitvector_vae.evaluation import Posterior, Proposal, Sampling, examine, log_likelihoods, log_mean
from tsallis.recipes.bitvector_vae.model import BitVectorVAE, Training
from tsallis.structured.factor import subsets

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "bitvector_vae", "smoke", {}).members
DIGITS = Config(dataset="digits")
SPARSE = ("top-k sparsemax", "SparseMAP", "SparseMAP, budget")


def test_every_image_has_one_place() -> None:
    data = load(DIGITS)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1200, 200, 397]
    assert data.levels == 17
    assert data.train.dtype == torch.uint8
    assert [int(part.max()) for part in (data.train, data.validation, data.test)] == [16] * 3
    few = load(replace(DIGITS, train_images=30, validation_images=20, test_images=10, seed=7))
    assert [len(part) for part in (few.train, few.validation, few.test)] == [30, 20, 10]
    for part, whole in ((few.train, data.train), (few.validation, data.validation), (few.test, data.test)):
        assert torch.equal(part, whole[: len(part)])
    assert few.hash != data.hash == load(replace(DIGITS, seed=7)).hash
    with pytest.raises(ConfigError, match=r"test_images=398\. Expected at most 397, or null"):
        load(replace(DIGITS, test_images=398))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_fashion_mnist() -> None:
    """The pixels; compressed files of other makes have the same."""
    data = load(Config())
    assert [tuple(part.shape) for part in (data.train, data.validation, data.test)] == [
        (55000, 784), (5000, 784), (10000, 784),
    ]  # fmt: skip
    assert data.levels == 256
    digest = hashlib.sha256()
    for part in (data.train, data.validation, data.test):
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest() == "0fbbfcb392782b3b702472ead3688778e1509e8cf40f5c24d9d3303618b193ab"


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08 half", bytes([0, 0, 8, 3]) + bytes(12), bytes([0, 0, 8, 1])])
def test_files_that_hold_something_else(content: bytes, tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / "fashion-mnist").mkdir(exist_ok=True)
        (tmp_path / "fashion-mnist" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* Expected an idx file of 60000x28x28 bytes"):
        load(Config(data_dir=str(tmp_path)))
    with pytest.raises(DataError, match="there is no folder"):
        load(Config(data_dir=str(tmp_path / "fashion-mnist")))


def test_a_histogram_against_a_direct_count() -> None:
    torch.manual_seed(1)
    train, test = (torch.randint(0, 4, (n, 3)).clamp_max(2).to(torch.uint8) for n in (20, 10))
    # Levels that the training images do not have: much has to be added to the counts.
    validation = torch.randint(2, 4, (15, 3)).to(torch.uint8)
    floor, smoothing = histogram_floor(Split(train, validation, test, 4, ""))

    def direct(images: torch.Tensor, added: float) -> float:
        total = 0.0
        for image in images.tolist():
            for i, level in enumerate(image):
                count = sum(row[i] == level for row in train.tolist())
                total -= math.log2((count + added) / (len(train) + 4 * added))
        return total / images.numel()

    assert smoothing == min(SMOOTHING, key=lambda added: direct(validation, added))
    assert smoothing != min(SMOOTHING, key=lambda added: direct(test, added))
    assert floor == pytest.approx(direct(test, smoothing), rel=1e-12)


BITS = 6
EVERY = subsets(BITS).double()


def _model(levels: int = 5, std: float = 0.6) -> tuple[BitVectorVAE, torch.Tensor]:
    torch.manual_seed(3)
    model = BitVectorVAE(Config(dataset="digits", bits=BITS, hidden=8, features=3), 4, levels).double()
    for layer in (model.decoder[0], model.decoder[2], model.pixel):
        torch.nn.init.normal_(layer.weight, std=std)
    return model, torch.randint(0, levels, (3, 4), dtype=torch.uint8)


def _exact(model: BitVectorVAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(x|z) of every z, by the definition, and log p(x)."""
    scores = model.pixel(model.decode(EVERY)).log_softmax(-1)
    given = torch.stack([scores[:, range(4), image.long()].sum(-1) for image in x])
    return given, given.logsumexp(-1) - BITS * math.log(2)


def _sparse(model: BitVectorVAE, x: torch.Tensor) -> Posterior:
    """Four of the vectors, one of them without probability."""
    torch.manual_seed(4)
    vertices = EVERY[torch.stack([torch.randperm(len(EVERY))[:4] for _ in x])]
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0]] * len(x), dtype=torch.float64)
    return Posterior(torch.einsum("bs,bsd->bd", p, vertices), p, vertices)


def _independent(x: torch.Tensor) -> Posterior:
    torch.manual_seed(5)
    return Posterior(torch.rand(len(x), BITS).double())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sparse", "independent", "certain"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_proposal_is_a_distribution_and_its_samples_are_its_own(kind: str, share: float) -> None:
    model, x = _model()
    q = {"sparse": _sparse(model, x), "independent": _independent(x)}.get(kind) or Posterior(EVERY[[0, 5, 63]])
    proposal = Proposal(q, Sampling(20000, share, 0.05, 1024))
    density = proposal.log_density(EVERY.expand(3, -1, -1)).exp()
    assert torch.allclose(density.sum(-1), torch.ones(3).double(), rtol=1e-12)
    z = proposal.draw(torch.Generator().manual_seed(1))
    assert z.shape == (3, 20000, BITS)
    place = (z @ (2.0 ** torch.arange(BITS).double())).long()
    every = (EVERY @ (2.0 ** torch.arange(BITS).double())).long()
    for image in range(3):
        seen = place[image].bincount(minlength=64)[every] / 20000
        assert (seen - density[image]).abs().max() < 5 * 0.5 / math.sqrt(20000)
        assert not seen[density[image] == 0].any()


@torch.no_grad()
def test_the_bound_agrees_with_enumeration() -> None:
    model, x = _model(std=0.3)
    given, log_p = _exact(model, x)
    assert torch.allclose(log_likelihoods(model, x, EVERY.expand(3, -1, -1), rows=50), given, rtol=1e-12)
    for q in (_sparse(model, x), _independent(x)):
        sampling = Sampling(4000, 0.5, 0.3, 1000)
        proposal = Proposal(q, sampling)
        z = proposal.draw(torch.Generator().manual_seed(1))
        weights = (log_likelihoods(model, x, z, 1000) - BITS * math.log(2) - proposal.log_density(z)).exp()
        error = weights.std(-1) / math.sqrt(4000)
        assert ((weights.mean(-1) - log_p.exp()).abs() < 4 * error).all()
        assert (error < 0.2 * log_p.exp()).all()
        found = examine(model, x, q, sampling, torch.Generator().manual_seed(1))
        assert torch.allclose(found.log_evidence, weights.mean(-1).log(), rtol=1e-9)


@torch.no_grad()
def test_one_sample_of_the_true_posterior_is_enough() -> None:
    model, x = _model()
    given, log_p = _exact(model, x)
    p = given.softmax(-1)
    q = Posterior(p @ EVERY, p, EVERY.expand(3, -1, -1))
    found = examine(model, x, q, Sampling(1, 1.0, 0.05, 7), torch.Generator().manual_seed(1))
    assert torch.allclose(found.log_evidence, log_p, rtol=1e-10)
    assert torch.allclose(found.map_distortion, -given.gather(1, p.argmax(-1, keepdim=True))[:, 0], rtol=1e-10)


@torch.no_grad()
def test_the_released_estimate_by_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every vector once in the place of uniform samples, and of samples of q."""
    model, x = _model()
    given, log_p = _exact(model, x)
    monkeypatch.setattr(evaluation, "_bits", lambda mu, n, generator: EVERY.expand(len(mu), -1, -1) > 0)
    sampling, generator = Sampling(10, 0.0, 0.05, 1024), torch.Generator()
    q = _sparse(model, x)
    inside = torch.stack(
        [
            torch.stack([given[b, (q.vertices[b, s] == EVERY).all(-1)][0] - BITS * math.log(2) for s in range(3)])
            for b in range(3)
        ]
    )
    # The mean over the prior is all of p(x): the support is counted twice.
    wanted = torch.logaddexp(inside.logsumexp(-1), log_p)
    found = examine(model, x, q, sampling, generator)
    assert torch.allclose(found.released, wanted, rtol=1e-10)
    assert found.sampled_distortion is None

    q = _independent(x)
    log_q = torch.distributions.Bernoulli(q.marginals[:, None]).log_prob(EVERY).sum(-1)
    found = examine(model, x, q, sampling, generator)
    assert torch.allclose(found.released, log_mean(given - BITS * math.log(2) - log_q), rtol=1e-10)
    assert torch.allclose(found.sampled_distortion, -given.mean(-1), rtol=1e-10)


@torch.no_grad()
def test_a_decoder_that_knows_nothing_takes_eight_bits() -> None:
    model, x = _model(256)
    for parameter in model.pixel.parameters():
        parameter.zero_()
    prior = Posterior(torch.full((3, BITS), 0.5).double())
    found = examine(model, x, prior, Sampling(3, 0.5, 0.05, 2), torch.Generator())
    assert found.sampled_distortion is not None
    for log_p in (found.log_evidence, found.released, -found.sampled_distortion, -found.map_distortion):
        assert torch.allclose(-log_p / (4 * math.log(2)), torch.full((3,), 8.0).double(), rtol=1e-12)


@pytest.mark.parametrize("estimator", ["topk-sparsemax", "sparsemap", "sparsemap-budget"])
def test_the_objective_is_the_sum_over_the_support(estimator: str) -> None:
    """In value and gradient, with scores of all pixels by the definition."""
    config = Config(dataset="digits", bits=BITS, hidden=8, features=3, estimator=estimator, k=5)
    torch.manual_seed(6)
    task = Training(BitVectorVAE(config, 4, 5), config, 4).double()
    x = torch.randint(0, 5, (3, 4), dtype=torch.uint8)
    e = task.expected(x)
    assert e.vertices is not None
    assert e.vertices.sum(-1).max() <= (3 if estimator == "sparsemap-budget" else BITS)
    scores = task.model.pixel(task.model.decode(e.vertices)).log_softmax(-1)
    ce = -scores.gather(-1, x.long()[:, None, :, None].expand(-1, scores.shape[1], -1, -1))[..., 0].sum(-1)
    wanted = (e.probs * ce + torch.special.xlogy(e.probs, e.probs)).sum(-1).mean()
    assert torch.allclose(e.objective, wanted, rtol=1e-9)
    assert 3 < e.rows == int(e.support_size.sum())
    parameters = list(task.parameters())
    for got, right in zip(
        torch.autograd.grad(e.objective, parameters, retain_graph=True),
        torch.autograd.grad(wanted, parameters),
        strict=True,
    ):
        assert torch.allclose(got, right, rtol=1e-8, atol=1e-12)
        assert right.abs().max() > 0


def test_the_median_support() -> None:
    config = Config(dataset="digits", bits=4, hidden=8)
    task = Training(BitVectorVAE(config, 4, 5), config, 4)
    assert math.isnan(task.median_support())
    for sizes, median in (([1, 1, 1, 9, 9], 1), ([1, 3, 7], 3), ([2, 7, 7, 8], 7), ([4097], 4097)):
        task.supports = torch.bincount(torch.tensor(sizes).clamp_max(4096), minlength=4097).float()
        assert task.median_support() == min(median, 4096)


def test_marginals_count_bits_that_are_off_too() -> None:
    config = Config(dataset="digits", bits=4, hidden=8, estimator="sparsemap")
    task = Training(BitVectorVAE(config, 4, 5), config, 4)
    scores = torch.tensor([[0.5, -0.2, 3.0, -1.5]])
    task.model.encoder[2].weight.data.zero_()
    task.model.encoder[2].bias.data.copy_(scores[0])
    e = task.expected(torch.zeros(1, 4, dtype=torch.uint8))
    assert torch.allclose(Posterior.of(e).marginals, ((scores + 1) / 2).clamp(0, 1), atol=1e-5)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """All rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    # The digits come with scikit-learn; that data_dir is read stands in test_parts.py.
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    assert list(results) == ["SFE", "SFE+", "NVIL", "Gumbel", "ST-Gumbel", *SPARSE]
    assert {m.config.estimator for m in SMOKE} == set(names("bits")) - {"rloo", "st-map"}
    for member in SMOKE:
        row, found = member.row, results[member.row]
        metrics = found.metrics
        assert 2 < found.value < math.log2(17) * 1.1
        assert metrics["steps"] == 12
        assert metrics["rate"] + metrics["distortion"] == pytest.approx(-metrics["elbo"], rel=1e-5)
        assert metrics["calls"] >= 1
        for epoch in read_table(folder / member.name / "metrics.csv"):
            assert epoch["val/loss"] == pytest.approx(epoch["val/distortion"] + epoch["val/rate"], rel=1e-6)
            assert 0 <= epoch["val/rate"] <= 8 * math.log(2)
        if row in SPARSE:
            assert 1 <= metrics["support"] <= 10
            assert metrics["median support"] == round(metrics["median support"]) >= 1
            assert metrics["rows"] > 1
        else:
            assert "support" not in metrics
            assert metrics["rows"] == (2 if row == "SFE+" else 1)
            assert metrics["gradient_variance"] > 0
        assert found.split == results["SFE"].split
        assert metrics["histogram floor"] == results["SFE"].metrics["histogram floor"]
    assert results["top-k sparsemax"].metrics["gradient_variance"] == 0
    # More rows than fit at once: 32 images with supports of about 9.
    assert results["SparseMAP"].metrics["calls"] > 2
    assert {p.name for p in (folder / SMOKE[0].name).iterdir()} == {
        *("checkpoints", "metrics.csv", "model.safetensors", "samples.safetensors"),
    }


def test_learning_beats_the_histogram(tmp_path: Path) -> None:
    member = next(m for m in SMOKE if m.row == "SparseMAP")
    config = replace(member.config, train_images=1200, epochs=12, hidden=64, lr=5e-3, variance_images=0, max_rows=None)
    found = recipe.train(config, tmp_path / "run")
    assert found.value < found.metrics["histogram floor"] - 0.05
    assert found.metrics["released"] == pytest.approx(found.value, abs=0.1)
    assert "gradient_variance" not in found.metrics


def test_tables_and_figures(smoke) -> None:
    results, _, folder = smoke
    runs = finished_runs(SMOKE, results, folder)
    for run in runs:
        run.result["published"] = {}
    rows = recipe.table(runs)
    assert [row["method"] for row in rows] == [*results, "histogram floor"]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0]["support"] == "-"
    assert float(rows[-2]["support"].split(" ")[0]) > 1
    assert float(rows[-1]["bits/dim"]) == pytest.approx(results["SFE"].metrics["histogram floor"], abs=1e-3)
    assert "published" not in rows[0]
    assert float(rows[0]["gradient variance"]) > 0 == float(rows[-4]["gradient variance"])
    runs[0].result["published"] = {"text": "3.74"}
    assert [row["published"] for row in recipe.table(runs)] == ["3.74", *["-"] * 8]
    drawn = recipe.figures(runs)
    assert set(drawn) == {"bits", "support", "variance", "reconstructions"}
    for figure, _ in drawn.values():
        figure.canvas.draw()
    assert set(recipe.figures(runs[:1])) == {"bits", "variance", "reconstructions"}
    samples = read_weights(runs[0].folder / "samples.safetensors")
    assert samples["image"].shape == samples["reconstruction"].shape == (10, 64)
    assert all(t.min() >= 0 and t.max() <= 1 for t in samples.values())


@pytest.mark.parametrize("member", SMOKE, ids=lambda m: m.config.estimator)
def test_an_interrupted_training_ends_as_one_that_was_not(member, smoke, tmp_path: Path) -> None:
    """In the middle of the second epoch; what is left of the first run is its checkpoint."""
    results, _, folder = smoke
    again, begun = train_interrupted(recipe, Training, member.config, tmp_path / "run", 9)
    assert len(begun) == 13, "one step twice"
    assert replace(again, seconds=0) == replace(results[member.row], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "samples.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()


def test_another_seed_gives_another_result(smoke, tmp_path: Path) -> None:
    results, _, _ = smoke
    other = recipe.train(replace(SMOKE[0].config, seed=1), tmp_path / "run")
    assert other.value != results["SFE"].value
    assert other.metrics["histogram floor"] == results["SFE"].metrics["histogram floor"]


def test_a_limit_of_time_ends_a_training_and_holds_when_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    member = next(m for m in SMOKE if m.row == "Gumbel")
    config = replace(member.config, epochs=100_000, max_minutes=0.6 / 60, variance_images=0)
    found = recipe.train(config, tmp_path / "run")
    history = read_table(tmp_path / "run" / "metrics.csv")
    assert 1 <= found.metrics["steps"] == history[-1]["step"] < 10_000
    assert 0.6 <= found.seconds < 10
    # At the end of a step, most often in the middle of an epoch, which has means and a validation all the same.
    assert found.metrics["epochs"] == len(history) == math.ceil(found.metrics["steps"] / 6)
    assert set(history[-1]) == set(history[0])

    def never(self, batch, number):
        raise AssertionError("trained beyond the limit")

    monkeypatch.setattr(Training, "training_step", never)
    assert recipe.train(config, tmp_path / "run") == found


def test_values_that_make_no_sense() -> None:
    for values, message in [
        ({"estimator": "sparsemax"}, "estimator='sparsemax'. Expected one of: sfe, .*sparsemap-budget"),
        ({"dataset": "mnist"}, "dataset=mnist. Expected "),
        ({"train_images": 0}, "train_images=0. Expected at least 1"),
        ({"bits": 0}, "bits=0. Expected at least 1"),
        ({"k": 0}, "k=0. Expected at least 1"),
        ({"lr": 0}, "lr=0.0. Expected more than 0"),
        ({"gumbel_rate": -1}, "gumbel_rate=-1.0. Expected 0 or more"),
        ({"max_minutes": 0}, "max_minutes=0.0. Expected more than 0, or null"),
        ({"sparse_share": 1.1}, "sparse_share=1.1. Expected a number from 0 to 1"),
        ({"clip": 0.5}, "clip=0.5. Expected a number between 0 and 0.5"),
        ({"variance_draws": 1}, "variance_draws=1. Expected at least 2"),
        ({"init": "zero"}, "init=zero. Expected "),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(Config, values, "here")


@pytest.mark.parametrize("name", ["default", "default-128", "equal-time", "paper", "paper-128"])
def test_presets(name: str) -> None:
    made = plan.make_plan(recipe, "bitvector_vae", name, {})
    rows = {m.row: m for m in made.members}
    assert {m.config.seed for m in made.members} == {42}
    assert len(rows) == (2 if name == "default-128" else 8)
    assert all(m.config.bits == (128 if "128" in name else 32) for m in made.members)
    assert (name.startswith("paper")) == any(m.published for m in made.members)
    differs = name.startswith("paper") or ("10,000 of 55,000" in made.title and "500 test images" in made.title)
    assert differs
    sparse = rows["SparseMAP"].config
    assert (sparse.init, sparse.lr, sparse.batch_size) == ("random", 2e-3, 16 if "128" in name else 64)
    assert rows["Gumbel"].config.gumbel_rate == (1e-4 if "128" in name else 1e-5)
