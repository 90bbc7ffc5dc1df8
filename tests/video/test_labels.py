"""Label files, and the class names of the field's data sets."""

import pytest

from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.video.labels import known_labels, label_sets, read_labels, write_labels

CLASSES = {
    "diving48": 48,
    "epic-kitchens-100-nouns": 300,
    "epic-kitchens-100-verbs": 97,
    "hmdb51": 51,
    "jester": 27,
    "kinetics400": 400,
    "kinetics600": 600,
    "kinetics700": 700,
    "kinetics710": 710,
    "something-something-v1": 174,
    "something-something-v2": 174,
    "ucf101": 101,
}


def test_known_labels_are_all_there():
    assert {name: len(known_labels(name)) for name in label_sets()} == CLASSES
    for name in label_sets():
        assert len(set(known_labels(name))) == CLASSES[name]
        assert all(label == label.strip() != "" for label in known_labels(name))


def test_kinetics_is_in_the_order_of_published_weights():
    labels = known_labels("kinetics400")
    assert (labels[0], labels[-1]) == ("abseiling", "zumba")
    assert list(labels) == sorted(labels)


def test_unknown_data_set():
    with pytest.raises(UnknownName, match="Unknown label list 'kinetic400'. Did you mean kinetics400"):
        known_labels("kinetic400")


def test_round_trip(tmp_path):
    labels = ("salto", "Bäcker & Söhne", "写真", "air drumming")
    write_labels(tmp_path / "labels.txt", labels)
    assert (tmp_path / "labels.txt").read_bytes() == "salto\nBäcker & Söhne\n写真\nair drumming\n".encode()
    assert read_labels(tmp_path / "labels.txt") == labels


def test_files_of_other_editors(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfjump\r\n run \r\nsit")
    assert read_labels(path) == ("jump", "run", "sit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected one class name a line"),
        (b"jump\n\nrun\n", r"labels.txt:2 is blank"),
        (b"jump\nrun\njump\n", r"labels.txt:3 repeats 'jump' of .*labels.txt:1"),
        (b"caf\xe9\n", "is not a text file in UTF-8"),
    ],
)
def test_files_that_are_no_label_files(content, message, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_labels(path)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFile, match="There is no label file"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize("labels", [[], ["jump", "jump"], ["jump", " "], ["jump\nrun"], [" jump"], ["a\u2028b"]])
def test_labels_that_would_not_come_back(labels, tmp_path):
    with pytest.raises(BadInput):
        write_labels(tmp_path / "labels.txt", labels)
    assert not (tmp_path / "labels.txt").exists()
