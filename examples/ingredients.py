"""What the examples share: small films of ours, a tiny image transformer, and the options --data, --backbone, --out."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import muybridge
from muybridge.demo.films import write_films
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone

CLASSES = ("opening something", "closing something", "lifting something up", "lowering something down")


@dataclass(frozen=True)
class Material:
    """What an example works on.

    Attributes:
        data: folder of videos.
        backbone: the image transformer; None: the one of `name` is fetched.
        name: of the image transformer.
        size: side in pixels of what is read of a frame.
        out: an empty folder for what the example writes.
    """

    data: Path
    backbone: muybridge.ViT | None
    name: str
    size: int
    out: Path

    def recipe(self, method: str, epochs: int = 8, **options: object) -> Recipe:
        """A short training of that method; rates and lengths for your own videos are told in docs/training.md."""
        return Recipe(
            method=method,
            options=options,
            backbone=self.name,
            data=str(self.data),
            sampling=Sampling(frames=8),
            transform=Transform(size=(self.size, self.size)),
            train=TrainArgs(epochs=epochs, batch_size=8, lr=1e-3, workers=0),
        )


def tiny_backbone() -> muybridge.ViT:
    """Random weights: it runs in milliseconds, and knows nothing."""
    config = muybridge.ViTConfig(width=128, depth=4, heads=2, mlp_hidden=256, patch=(8, 8), image_size=(48, 48))
    return random_backbone(config)


def small_films(folder: Path) -> Path:
    """Twelve films of each of four classes, by the renderer of `muybridge demo`."""
    return write_films(folder, classes=CLASSES, train=8, val=4, size=48, frames=16, workers=1)


def material(about: str | None) -> Material:
    """What the command line asks for.

    Args:
        about: the docstring of the example.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with one folder of videos per class (default: films of ours)")
    parser.add_argument(
        "--backbone", help="a name of `muybridge list backbones`, such as dinov2_vits14 (default: tiny)"
    )
    parser.add_argument("--out", type=Path, help="a new folder for what is written (default: a temporary one)")
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp(prefix="muybridge-"))
    data = given.data or small_films(out / "films")
    if given.backbone:
        return Material(data, None, given.backbone, 224, out)
    return Material(data, tiny_backbone(), "custom", 48, out)
