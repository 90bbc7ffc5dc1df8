"""What all sampling rules share: their random generator and the check of their numbers."""

from __future__ import annotations

import hashlib

import numpy as np

from muybridge.errors import BadInput


def generator(seed: int, *place: int) -> np.random.Generator:
    """A random generator that depends on its arguments only: not on workers, processes, or what was drawn before.

    Args:
        seed: of the run.
        place: what the draws are for: (epoch, index, view) for a sample, (epoch,) for an order.
    """
    digest = hashlib.sha256(",".join(str(int(number)) for number in (seed, *place)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def at_least_one(**numbers: int) -> None:
    """Raise BadInput, naming it, if one of these numbers is below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise BadInput(f"{name} is {number}; expected 1 or more.")
