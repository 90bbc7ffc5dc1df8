"""A folder of videos becomes a recogniser.

    python examples/train_on_a_folder.py
    python examples/train_on_a_folder.py --data my_videos --backbone dinov2_vits14 --out mine

`my_videos` holds one folder of videos per class. On the command line the same is
`muybridge train --data my_videos --method evl --backbone dinov2_vits14 --out mine/run`.
"""

import muybridge
from ingredients import material

given = material(__doc__)

# Every field of a recipe is one of `muybridge train --help`. For videos of your own leave out `layers` and `epochs`
# in `ingredients.py`: the defaults are made for 10 to 50 videos a class.
recipe = given.recipe("evl", layers=2)
result = muybridge.train(recipe, given.out / "run", backbone=given.backbone)

print(result.evaluation)
print(f"{result.trainable / 1e6:.2f} M parameters were trained in {result.seconds:.0f} s")

# The run folder holds everything: the model, its recipe, which video was in which half, the figures.
recogniser = muybridge.load(given.out / "run")
video = next(given.data.rglob("*.mp4"))
print(video.relative_to(given.data))
print(recogniser.predict(video, top=3))
print(f"run folder: {given.out / 'run'}")
