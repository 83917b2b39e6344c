"""Images of pixels with levels, and what a histogram makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._shared.config import ConfigError
from .._shared.datasets import Source, locate, read_idx, split_hash
from .config import Config

FASHION = Source(
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    },
)


@dataclass(frozen=True)
class Split:
    """Levels of pixels, uint8 (n, pixels), of each part; how many levels there are; the hash of the parts' indices."""

    train: Tensor
    validation: Tensor
    test: Tensor
    levels: int
    hash: str


def load(config: Config) -> Split:
    """The data set of the configuration, the same for every seed."""
    return DATASETS[config.dataset](config)


def _fashion(config: Config) -> Split:
    paths = locate(FASHION, config)
    train, test = (
        read_idx(path, (n, 28, 28)).flatten(1) for path, n in zip(paths.values(), (60000, 10000), strict=True)
    )
    return _split(train, test, 5000, 256, config)


def _digits(config: Config) -> Split:
    from sklearn.datasets import load_digits

    x, _ = load_digits(return_X_y=True)
    # In the order of the data set, images of one writer stand together.
    order = np.random.RandomState(351245).permutation(len(x))
    images = torch.from_numpy(x[order]).to(torch.uint8)
    return _split(images[397:], images[:397], 200, 17, config)


def _split(images: Tensor, test: Tensor, n_validation: int, levels: int, config: Config) -> Split:
    n = len(images) - n_validation
    parts = {
        "train_images": np.arange(n),
        "validation_images": np.arange(n, len(images)),
        "test_images": np.arange(len(test)),
    }
    for name, part in parts.items():
        wanted = getattr(config, name)
        if wanted is not None and wanted > len(part):
            raise ConfigError(f"{name}={wanted}", f"at most {len(part)}, or null", "Choose another value")
        parts[name] = part[:wanted]
    chosen = [torch.from_numpy(part) for part in parts.values()]
    return Split(images[chosen[0]], images[chosen[1]], test[chosen[2]], levels, split_hash(parts.values()))


DATASETS: dict[str, Callable[[Config], Split]] = {"digits": _digits, "fashion-mnist": _fashion}
# What is added to the counts of a histogram, to choose from.
SMOOTHING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def histogram_floor(data: Split) -> tuple[float, float]:
    """(bits per dimension of the test images, smoothing): each pixel on its own, by how often the training images have
    its levels. What is added to every count is chosen by the validation images.
    """
    pixels = data.train.shape[1]
    place = data.train.long() + data.levels * torch.arange(pixels)
    counts = torch.bincount(place.flatten(), minlength=pixels * data.levels).reshape(pixels, data.levels).double()

    def bits(images: Tensor, smoothing: float) -> float:
        log_p = (counts + smoothing).log() - math.log(len(data.train) + smoothing * data.levels)
        return -float(log_p.gather(1, images.long().t()).mean()) / math.log(2)

    best = min(SMOOTHING, key=lambda smoothing: bits(data.validation, smoothing))
    return bits(data.test, best), best
