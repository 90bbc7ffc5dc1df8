"""The demo's films: twins are each other backwards, splits share nothing, files are what they say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from muybridge.demo import films
from muybridge.demo.films import CLASSES, PAIRS, TWINS, draw_plan, encode, film, plan_film, render, write_films
from muybridge.demo.scenes import SCENES, progress
from muybridge.demo.textures import PATTERNS, SPLITS
from muybridge.errors import BadInput, UnknownName
from muybridge.video.sampling import segments_test

SMALL = {"size": 48, "frames": 12}
FIRSTS = [pair[0] for pair in PAIRS.values()]


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_classes_are_twins_of_each_other() -> None:
    assert len(CLASSES) >= 10
    assert list(CLASSES) == sorted(TWINS)
    for name, twin in TWINS.items():
        assert twin != name
        assert TWINS[twin] == name


@pytest.mark.parametrize("label", FIRSTS)
def test_a_twin_is_the_same_film_backwards(label: str) -> None:
    plan = plan_film(label, "train", 3, **SMALL)
    forwards, backwards = render(plan), render(replace(plan, label=TWINS[label]))
    assert forwards.shape == (12, 48, 48, 3)
    assert forwards.dtype == np.uint8
    assert np.array_equal(backwards, forwards[::-1])
    assert not np.array_equal(backwards, forwards)


@pytest.mark.parametrize("label", FIRSTS)
@pytest.mark.parametrize("split", SPLITS)
def test_twins_are_planned_from_one_distribution(label: str, split: str) -> None:
    for seed in range(20):
        one, other = (draw_plan(np.random.default_rng(seed), name, split, 112, 24) for name in (label, TWINS[label]))
        assert replace(other, label=label) == one


def test_twins_show_the_same_states_in_the_other_order() -> None:
    """How far the action has got is alike on average in both classes; which way it goes is what differs."""
    for pair in PAIRS.values():
        state, change = [], []
        for label in pair:
            plans = [plan_film(label, "train", index) for index in range(100)]
            curves = [progress(take)[:: -1 if plan.backwards else 1] for plan in plans for take in plan.takes]
            state.append(np.concatenate(curves).mean())
            change.append([curve[-1] - curve[0] for curve in curves])
        assert abs(state[0] - state[1]) < 0.1
        assert min(change[0]) > 0.5
        assert max(change[1]) < -0.5


def test_the_decoded_twin_is_the_decoded_film_backwards(tmp_path: Path) -> None:
    frames = film("opening something", **SMALL)
    encode(frames, tmp_path / "a.mp4")
    encode(frames[::-1], tmp_path / "b.mp4")
    assert np.array_equal(decoded(tmp_path / "a.mp4"), decoded(tmp_path / "b.mp4")[::-1])


def test_the_eight_sampled_frames_are_the_same_ones_backwards() -> None:
    (middles,) = segments_test(plan_film(CLASSES[0], "train", 0).frames, 8, 1)
    assert middles == [23 - middle for middle in reversed(middles)]


def test_a_film_has_one_whole_take_or_two_that_show_most_of_the_action() -> None:
    plans = [plan_film(label, "train", index) for label in FIRSTS for index in range(60)]
    for plan in plans:
        assert [take.begin for take in plan.takes[1:]] == [take.end for take in plan.takes[:-1]]
        assert (plan.takes[0].begin, plan.takes[-1].end) == (0, plan.frames)
        for take in plan.takes:
            assert take.end - take.begin >= 8
            done = progress(take)
            assert np.all(np.diff(done) >= 0)
            assert done[-1] - done[0] > (0.9 if len(plan.takes) == 1 else 0.5)
    assert 0.45 < np.mean([len(plan.takes) == 2 for plan in plans]) < 0.75
    # Actions begin at any time, so no frame can be counted on to be before or after one.
    starts = [take.start for plan in plans for take in plan.takes]
    assert np.std(starts) > 0.1


def test_splits_share_no_texture_outline_or_hue() -> None:
    seen = {}
    for split in SPLITS:
        plans = [plan_film(label, split, index) for label in CLASSES for index in range(20)]
        skins = {skin for plan in plans for skin in plan.skins}
        shapes = {thing.shape for plan in plans for thing in plan.things}
        seen[split] = {
            "families": {skin.family for skin in skins},
            "hues": {skin.hue for skin in skins},
            "seeds": {skin.seed for skin in skins} | {plan.seed for plan in plans},
            "shapes": shapes,
        }
        material = SPLITS[split]
        # All that a split may draw from is drawn, so the disjoint sets below are the whole story.
        assert seen[split]["families"] == {*material.backgrounds, *material.patterns} <= set(PATTERNS)
        assert seen[split]["shapes"] == set(material.shapes)
        assert seen[split]["hues"] == set(material.hues)
    for kind, train in seen["train"].items():
        assert not train & seen["val"][kind], kind
    # Colours stray 10 degrees from their hue: further apart than twice that, they do not meet.
    gaps = [abs((a - b + 180) % 360 - 180) for a in seen["train"]["hues"] for b in seen["val"]["hues"]]
    assert min(gaps) > 20


def test_no_two_films_are_alike() -> None:
    plans = [plan_film(label, split, index) for label in CLASSES for split in SPLITS for index in range(10)]
    assert len({plan.seed for plan in plans}) == len(plans)
    assert plan_film(CLASSES[0], "train", 0, seed=1) != plan_film(CLASSES[0], "train", 0, seed=0)
    assert plan_film(CLASSES[0], "train", 0) == plan_film(CLASSES[0], "train", 0)


@pytest.mark.parametrize("label", FIRSTS)
def test_the_action_shows(label: str) -> None:
    """Between the first and the last frame of a take an action changes far more than camera, light and noise do."""
    plan = next(plan for plan in (plan_film(label, "train", index) for index in range(9)) if len(plan.takes) == 1)
    still = replace(plan, takes=tuple(replace(take, start=2.0, stop=3.0) for take in plan.takes))
    acting, resting = (render(each)[-1].astype(float) for each in (plan, still))
    assert (np.abs(acting - resting).max(-1) > 40).mean() > 0.08


@pytest.mark.parametrize(
    ("action", "layer", "column", "least"),
    [
        ("across", 1, 0, 0.45),  # x grows: to the right
        ("lift", 1, 1, -0.3),  # y shrinks: up
        ("near", 0, 2, 0.3),  # the toy gets wider
        ("open", 2, 0, -0.1),  # the left door's middle goes to the left
        ("uncover", 1, slice(0, 2), 0.3),  # the cloth goes somewhere, by a toy's size or more
    ],
)
def test_scenes_go_the_way_their_names_say(action: str, layer: int, column: int | slice, least: float) -> None:
    for index in range(20):
        plan = plan_film(PAIRS[action][0], "train", index)
        path = SCENES[action](plan.takes[0], plan.cloth, np.array([0, 1], np.float32))[layer].path
        way = (path[1] - path[0])[column]
        way = np.linalg.norm(way) if action == "uncover" else way
        assert way * np.sign(least) > abs(least)


def test_files_are_h264_and_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    names, ticks = (CLASSES[0], TWINS[CLASSES[0]]), []
    options = {"classes": names, "train": 2, "val": 1, "seed": 5, **SMALL}
    one = write_films(tmp_path / "one", workers=1, progress=lambda: ticks.append(1), **options)
    two = write_films(tmp_path / "deep" / "two", workers=2, progress=lambda: ticks.append(1), **options)
    assert (one, len(ticks)) == (tmp_path / "one", 12)
    written = files_of(one)
    assert written == files_of(two)
    assert set(written) == {
        str(Path(split, name, f"{index:04d}.mp4"))
        for split, count in (("train", 2), ("val", 1))
        for name in names
        for index in range(count)
    }
    assert sorted(os.listdir(tmp_path)) == ["deep", "one"]  # nothing is left of the workshop
    path = one / "train" / names[1] / "0001.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (48, 48, 12)
        assert 12 <= stream.average_rate <= 30
    video, drawn = decoded(path), film(names[1], "train", 1, seed=5, **SMALL)
    assert video.shape == drawn.shape
    # Half of what is lost is colour at half resolution.
    assert np.abs(video.astype(float) - drawn).mean() < 12


def test_one_film_more(tmp_path: Path) -> None:
    path = films.write_film(tmp_path / "unseen.mp4", CLASSES[0], "val", 20, seed=1)
    assert decoded(path).shape == (24, 112, 112, 3)
    assert 5_000 < path.stat().st_size < 120_000


def test_unknown_names_are_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean opening something?"):
        write_films(tmp_path / "new", classes=["opening somthing"], train=1, val=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnknownName, match="split 'test'"):
        plan_film(CLASSES[0], "test", 0)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        write_films(tmp_path / "full", classes=CLASSES[:1], train=1, val=0, workers=1, **SMALL)
    assert files_of(tmp_path) == {str(Path("full", "mine.txt")): b"mine"}
    (tmp_path / "empty").mkdir()
    written = write_films(tmp_path / "empty", classes=CLASSES[:1], train=1, val=0, workers=1, **SMALL)
    assert list(files_of(written)) == [str(Path("train", CLASSES[0], "0000.mp4"))]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_leaves_nothing_behind(tmp_path: Path, workers: int) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_films(tmp_path / "new", classes=CLASSES[:2], train=2, workers=workers, progress=stop, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [{"size": 47}, {"size": 16}, {"frames": 4}, {"train": 0}, {"val": -1}, {"classes": []}])
def test_impossible_numbers_are_refused(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        write_films(tmp_path / "new", **{"classes": CLASSES[:1], "workers": 1, "train": 1, "val": 1, **SMALL, **bad})
    assert not list(tmp_path.iterdir())


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    np.random.seed(3)
    first, after = film(CLASSES[0], **SMALL), np.random.random()
    np.random.seed(3)
    assert np.random.random() == after
    assert np.array_equal(film(CLASSES[0], **SMALL), first)
