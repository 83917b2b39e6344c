"""The data of the signalling game: features by concept, and games with them."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError, split_hash
from tsallis.recipes.signal_game import recipe
from tsallis.recipes.signal_game.config import Config
from tsallis.recipes.signal_game.data import VGG, Images, load


def some_images(concepts: int = 20, each: int = 3, width: int = 5) -> Images:
    draws = torch.Generator().manual_seed(0)
    concept = torch.arange(concepts).repeat_interleave(each)[torch.randperm(concepts * each, generator=draws)]
    features = torch.randn(len(concept), width, generator=draws)
    features[:, 0] = concept + 100.0  # so that a feature tells its concept, whatever its length
    features[:, 1] = 100.0
    return Images(features, concept, "here")


def _concept(x: Tensor) -> Tensor:
    return (x[..., 0] / x[..., 1] * 100 - 100).round().long()


def test_a_game() -> None:
    images = some_images()
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


def test_images_held_out_are_shown_by_validation_games_alone() -> None:
    config = Config(validation_games=500)
    whole, data = load(config), load(replace(config, held_out=2))
    assert data.train.count.tolist() == (whole.train.count - 2).tolist()
    assert data.hash != whole.hash
    parts = [data.train.features, data.validation.features]
    assert (torch.cat(parts) @ whole.train.features.T).amax(1).sub(1).abs().max() < 1e-6
    trained, tried = (set((part @ whole.train.features.T).argmax(1).tolist()) for part in parts)
    assert trained | tried == set(range(len(whole.train.features)))
    assert not trained & tried
    assert torch.equal(data.test.images, whole.test.images)
    # Unevenly many, and in no order.
    concept = torch.tensor([4, 9, 4, 9, 4])
    kept, held = Images(torch.eye(5), concept, "here").divided(1)
    assert kept.features.argmax(-1).tolist() == [0, 2, 1]
    assert held.features.argmax(-1).tolist() == [4, 3]
    assert (kept.count.tolist(), held.count.tolist()) == ([2, 1], [1, 1])
    with pytest.raises(ConfigError, match=r"held_out=2\. Expected fewer than 2, the images of a concept of here"):
        Images(torch.eye(5), concept, "here").divided(2)


def test_games_to_train_with_are_new_in_every_step_and_the_same_after_a_restart() -> None:
    images, config = some_images(), Config(images=4, batch_size=8, epoch_steps=5, seed=3)

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
    # Two devices share twice as many: each makes the steps that were asked for.
    both = recipe._stream(images, replace(config, devices=2))
    assert len(both) == 2 * len(first)


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
    # What nobody can download is not said to be downloaded.
    with pytest.raises(DataError, match=r"there is no folder .*Put the files of [^.]* there\.$"):
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
        {"features": features[:, :0], "concept": concept},
        {"features": np.full((3, 4), 1e300), "concept": concept},
    ):
        _npz(tmp_path, "train", **arrays)
        with pytest.raises(DataError, match="Get the file again"):
            load(config)
    alone, packed = io.BytesIO(), io.BytesIO()
    np.save(alone, features)
    np.savez_compressed(packed, features=np.random.default_rng(0).normal(size=(3, 4)), concept=concept)
    damaged = packed.getvalue()
    damaged = damaged[:50] + b"\xff" * 60 + damaged[110:]
    for content in (b"", b"PK\x03\x04 half a file", alone.getvalue(), damaged):
        (tmp_path / "signal-game" / "train.npz").write_bytes(content)
        with pytest.raises(DataError, match="Get the file again"):
            load(config)
    _npz(tmp_path, "train", features=features, concept=concept)
    whole = load(config)
    assert whole.train.count.tolist() == [1, 2]
    for dtype in (">f4", np.longdouble):
        _npz(tmp_path, "train", features=features.astype(dtype), concept=concept)
        assert torch.equal(load(config).train.features, whole.train.features)
    _npz(tmp_path, "train", features=features[:, :3], concept=concept)
    with pytest.raises(DataError, match=r"Features of 3 numbers in .*train\.npz, of 4 in .*test\.npz\. Expected equal"):
        load(config)
    _npz(tmp_path, "train", features=features, concept=concept)
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
    for wrong in ([1, 2, 3, 4, 5], labels[:4], np.arange(5), np.stack([labels, labels]), [["dog"], ["cat", "emu"]]):
        (folder / "train" / "ours_images_single_sm0.objects").write_bytes(pickle.dumps(wrong))
        with pytest.raises(DataError, match="Get the file again"):
            load(config)
