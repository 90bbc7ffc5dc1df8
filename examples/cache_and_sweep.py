"""Frozen features are computed once, and many settings are tried on them.

    python examples/cache_and_sweep.py

On the command line: `muybridge sweep --data my_videos --method evl --try train.lr=3e-4,1e-3 --try evl.dropout=0.1,0.5`.
"""

from dataclasses import replace

from ingredients import material
from muybridge.engine.search import search

given = material(__doc__)
recipe = given.recipe("evl", epochs=4, layers=2)

# `disk`: the features stay, and every later training with the same videos, frames and backbone reads them. Without a
# folder of their own they lie in the user's cache (`muybridge cache --list`).
recipe = replace(
    recipe, train=replace(recipe.train, cache="disk", cache_folder=str(given.out / "features"), fixed_views=2)
)

result = search(recipe, ["train.lr=3e-4,1e-3", "evl.dropout=0.1,0.5"], given.out / "sweep", backbone=given.backbone)
for outcome in result.outcomes:  # best first
    print(outcome.spread(), outcome.tried)
print(f"the best setting, for `muybridge train --recipe`: {result.folder / 'best.yaml'}")
# The validation videos have chosen the best setting, so its figure is too good: measure it on others.
