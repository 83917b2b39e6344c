"""Features of images by concept, and games with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._shared.config import ConfigError
from .._shared.datasets import DataError, Source, locate, split_hash
from .._shared.foreign import read_hdf5, read_pickle
from .._shared.seeding import generator
from .config import Config

LITE0 = Source(
    folder="signal-game",
    url="EfficientNet-Lite0's pooled features of images: arrays features (n, d) and concept (n,)",
    files={"train.npz": None, "test.npz": None},
)
_VGG = ("ours_images_single_sm0.h5", "ours_images_single_sm0.objects")
VGG = Source(
    folder="signaling_game_data",
    url="the authors of Bouchacourt and Baroni (2018), https://github.com/DianeBouchacourt/SignalingGame",
    files={f"{part}/{name}": None for part in ("train", "test") for name in _VGG},
)
# Of the published validation and test games; the games themselves are ours.
VALIDATION_SEED, TEST_SEED = 20200724, 20200725
# Of the made data: concepts, images of each one and part, width, deviation within a concept over that between them.
MADE = (24, 6, 32, 0.5)

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Games:
    """Games in the receiver's order: the images (n, images) as rows of features, and the target's position (n,)."""

    features: Tensor
    images: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: Tensor) -> Batch:
        """Features (B, images, d) and target positions (B,) of these games."""
        # Gathers four times as fast as indexing.
        return F.embedding(self.images[positions], self.features), self.label[positions]


class Images:
    """Features of unit length (n, d), in order of their concepts."""

    def __init__(self, features: Tensor, concept: Tensor, where: str) -> None:
        order = concept.argsort(stable=True)
        self.features = F.normalize(features[order].float(), dim=-1)
        self.count = concept.unique(return_counts=True)[1]
        self.first = self.count.cumsum(0) - self.count
        self.where = where

    def divided(self, held_out: int) -> tuple[Images, Images]:
        """These images without the last ones of each concept, and those."""
        smallest = int(self.count.min())
        if held_out >= smallest:
            raise ConfigError(
                f"held_out={held_out}", f"fewer than {smallest}, the images of a concept of {self.where}", "Lower it"
            )
        concept = torch.arange(len(self.count)).repeat_interleave(self.count)
        number = torch.arange(len(concept)) - self.first[concept]
        held = number >= self.count[concept] - held_out
        kept, others = (Images(self.features[part], concept[part], self.where) for part in (~held, held))
        return kept, others

    def games(self, n: int, images: int, draws: torch.Generator) -> Games:
        """Different concepts, an image of each, one of them the target: all uniformly at random.

        Concepts come in random order: that is the permutation the receiver sees.
        """
        if images > len(self.count):
            raise ConfigError(
                f"images={images}", f"at most {len(self.count)}, the concepts of {self.where}", "Lower it"
            )
        concepts = torch.rand(n, len(self.count), generator=draws).topk(images).indices
        count = self.count[concepts]
        number = (torch.rand(n, images, generator=draws, dtype=torch.float64) * count).long()
        label = torch.randint(images, (n,), generator=draws)
        return Games(self.features, self.first[concepts] + number, label)


@dataclass(frozen=True)
class Split:
    """Images to train with, the fixed games, and the hash of the latter."""

    train: Images
    validation: Games
    test: Games
    hash: str


def load(config: Config) -> Split:
    """The data set of the configuration; validation and test games are the same for all seeds and batch sizes."""
    train, test = DATASETS[config.dataset](config)
    widths = [x.features.shape[1] for x in (train, test)]
    if widths[0] != widths[1]:
        found = f"Features of {widths[0]} numbers in {train.where}, of {widths[1]} in {test.where}"
        raise DataError(found, "equally many", "Get both files again, from one source")
    # Validation images come from the train folder, as published; there they are those to train with.
    train, held = train.divided(config.held_out) if config.held_out else (train, train)
    validation = held.games(config.validation_games, config.images, generator(VALIDATION_SEED))
    games = test.games(config.test_games, config.images, generator(TEST_SEED))
    parts = [x.numpy() for part in (validation, games) for x in (part.images, part.label)]
    return Split(train, validation, games, split_hash(parts))


def _made(config: Config) -> tuple[Images, Images]:
    draws = generator("made concepts")
    concepts, images, width, spread = MADE
    centres = torch.randn(concepts, 1, width, generator=draws)
    parts = [centres + spread * torch.randn(concepts, images, width, generator=draws) for _ in range(2)]
    concept = torch.arange(concepts).repeat_interleave(images)
    train, test = (Images(part.flatten(0, 1), concept, "the made data") for part in parts)
    return train, test


def _lite0(config: Config) -> tuple[Images, Images]:
    train, test = (_read_npz(path) for path in locate(LITE0, config).values())
    return train, test


def _read_npz(path: Path) -> Images:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            features, concept = arrays["features"], arrays["concept"]
    # What a damaged file raises depends on where it is damaged.
    except Exception as error:
        raise DataError(f"{path}: {error}", "arrays features (n, d) and concept (n,)", "Get the file again") from error
    return _checked(features, concept, path)


def _vgg(config: Config) -> tuple[Images, Images]:
    paths = list(locate(VGG, config).values())
    train, test = (_read_published(*paths[i : i + 2]) for i in (0, 2))
    return train, test


def _read_published(features: Path, labels: Path) -> Images:
    # Concepts are numbered in alphabetical order of their names.
    expected, value = "the name of each image's concept", read_pickle(labels)
    try:
        names = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{labels}: {error}", expected, "Get the file again") from error
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise DataError(f"{labels}: an array {names.shape} of {names.dtype}", expected, "Get the file again")
    return _checked(read_hdf5(features), np.unique(names, return_inverse=True)[1], features)


def _checked(features: np.ndarray, concept: np.ndarray, path: Path) -> Images:
    found = f"{path}: features {features.shape} of {features.dtype}, concepts {concept.shape} of {concept.dtype}"
    fits = features.ndim == 2 and features.dtype.kind == "f" and concept.shape == features.shape[:1]
    if fits:
        # Of any width and order of bytes; what is too large for float32 becomes infinite.
        with np.errstate(over="ignore"):
            features = features.astype(np.float32)
    if not fits or not features.size or concept.dtype.kind not in "iu" or not np.isfinite(features).all():
        raise DataError(found, "finite features (n, d) and concepts (n,), integers", "Get the file again")
    return Images(torch.from_numpy(features), torch.from_numpy(concept.astype(np.int64)), str(path))


DATASETS: dict[str, Callable[[Config], tuple[Images, Images]]] = {"made": _made, "lite0": _lite0, "vgg": _vgg}
