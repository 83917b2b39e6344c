"""Digit images, split into labelled, unlabelled, validation and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._shared.config import ConfigError
from .._shared.datasets import DataError, Source, locate, read_idx, split_hash
from .._shared.seeding import generator
from .config import Config

CLASSES = 10

MNIST = Source(
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    files={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)


@dataclass(frozen=True)
class Images:
    """Intensities in [0, 1], (n, pixels), and classes (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.x[index], self.y[index])

    def pair(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images at these positions and their classes."""
        return self.x[positions], self.y[positions]

    def binarised(self, name: str) -> Images:
        """Pixels drawn once and for all: evaluation is the same for every run."""
        return Images(torch.bernoulli(self.x, generator=generator("pixels", name)), self.y)


@dataclass(frozen=True)
class Split:
    """The parts of a data set and the hash of their indices. Validation and test are binary, fixed."""

    labelled: Images
    unlabelled: Images
    validation: Images
    test: Images
    hash: str

    def known(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The labelled images and classes that stand beside the unlabelled images at these positions."""
        return self.labelled.pair(positions % len(self.labelled))

    def both(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unlabelled images at these positions, each beside its labelled image and class."""
        return self.unlabelled.x[positions], *self.known(positions)


def load(config: Config) -> Split:
    """The data set of the configuration, split the same way for every seed."""
    return DATASETS[config.dataset](config)


def _mnist(config: Config) -> Split:
    paths = list(locate(MNIST, config).values())
    train, test = (_read(paths[i], paths[i + 1], n) for i, n in ((0, 60000), (2, 10000)))
    return _split(train, test, 10000, config)


def _read(images: Path, labels: Path, n: int) -> Images:
    y = read_idx(labels, (n,)).long()
    if (found := y.unique().tolist()) != list(range(CLASSES)):
        raise DataError(f"{labels}: classes {found}", f"all of 0 to {CLASSES - 1}", "Get the file again")
    return Images(read_idx(images, (n, 28, 28)).flatten(1).float() / 255, y)


def _digits(config: Config) -> Split:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = Images(torch.from_numpy(x).float() / 16, torch.from_numpy(y).long())
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(images))
    test, train = (torch.from_numpy(np.sort(part)) for part in (order[:397], order[397:]))
    return _split(images[train], images[test], 200, config)


def _split(train: Images, test: Images, n_validation: int, config: Config) -> Split:
    # The published split, number for number: validation from all, then labelled from the sorted rest.
    random = np.random.RandomState(_SPLIT_SEED)
    validation = random.choice(len(train), n_validation, replace=False)
    rest = np.setdiff1d(np.arange(len(train)), validation)
    n_labelled = round(config.labelled * len(rest))
    if not 0 < n_labelled < len(rest):
        raise ConfigError(f"labelled={config.labelled}", f"a share of {len(rest)} images", "Choose another value")
    labelled = random.choice(rest, n_labelled, replace=False)
    unlabelled = np.setdiff1d(rest, labelled)
    take: Callable[[np.ndarray], Images] = lambda index: train[torch.from_numpy(index)]  # noqa: E731
    return Split(
        take(labelled),
        take(unlabelled),
        take(validation).binarised("validation"),
        test.binarised("test"),
        split_hash([validation, labelled, unlabelled]),
    )


_SPLIT_SEED = 351245
DATASETS: dict[str, Callable[[Config], Split]] = {"digits": _digits, "mnist": _mnist}
