"""Write a tiny trained run and a video beside it, for the check of the built wheel: make_run.py FOLDER."""

import sys
from pathlib import Path

import torch

from muybridge.backbones.vit import ViT
from muybridge.demo.films import CLASSES, write_film, write_films
from muybridge.engine.train import train
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import tiny_backbones

folder = Path(sys.argv[1])
torch.manual_seed(0)
recipe = Recipe(
    method="probe",
    backbone="custom",
    data=str(write_films(folder / "videos", classes=CLASSES[:2], train=2, val=2, workers=1)),
    sampling=Sampling(frames=4),
    transform=Transform(size=(32, 32)),
    train=TrainArgs(epochs=1, workers=0),
)
train(recipe, folder / "run", backbone=ViT(tiny_backbones()["dinov2"]))
write_film(folder / "video.mp4", CLASSES[0], "val", 2)
