"""What a recogniser says of files, of frames in memory, and of a long video.

    python examples/predict_videos.py

With a recogniser of yours, the lines below `recogniser =` are all you need: `muybridge.load("runs/mine")`.
"""

import numpy as np

import muybridge
from ingredients import material
from muybridge.video.decode import open_video

given = material(__doc__)
muybridge.train(given.recipe("evl", layers=2, epochs=2), given.out / "run", backbone=given.backbone)
recogniser = muybridge.load(given.out / "run")

# Several files: computed in batches, answered in order. One that cannot be read says why, the others go on.
files = sorted(given.data.rglob("*.mp4"))[:4]
for file, answer in zip([*files, "missing.mp4"], recogniser.predict([*files, "missing.mp4"]), strict=True):
    print(file, "->", answer.error or answer[0])

# Frames that you have already: uint8 [T, H, W, 3], RGB.
with open_video(files[0]) as video:
    frames = video.read(range(video.frame_count))
print(recogniser.predict(frames, top=1))

# An embedding of the video, to search or to cluster with.
first, second = (recogniser.features(file).numpy() for file in files[:2])
print("cosine", first @ second / np.linalg.norm(first) / np.linalg.norm(second))

# A long video: windows of one second each half second, joined where the class stays.
print(recogniser.timeline(files[0], window=1, step=0.5))
