"""The scale of heat."""

import numpy as np

from muybridge.explain.colours import colours_of, heated


def lightness(colours):
    """CIE L*, of sRGB [.., 3]."""
    linear = np.where(colours <= 10.3, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_lightness_rises_evenly():
    light = lightness(colours_of(np.linspace(0, 1, 65, dtype=np.float32)).astype(float))
    steps = np.diff(light)
    assert (steps > 0).all()
    assert light[0] < 1
    assert light[-1] > 96
    assert steps.max() < 2 * steps.mean()
    assert steps.min() > 0.4 * steps.mean()


def test_no_strength_is_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    heat = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    assert np.array_equal(heated(picture, heat, 0.0), picture)
    full = heated(picture, heat).astype(int)
    assert abs(full[-1, -1] - colours_of(heat)[-1, -1]).sum() < abs(full[0, 0] - colours_of(heat)[-1, -1]).sum()
