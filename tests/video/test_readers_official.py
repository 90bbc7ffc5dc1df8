"""Miniature copies of the official files of the field's data sets; only the names of the videos are looked at."""

import json

import pytest

from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.structures import FrameFiles, Item, SourceArgs
from muybridge.video.labels import known_labels
from muybridge.video.sources import read_items, read_part, read_source, read_split, write_split


def make(root, *names, content=""):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def told(source, root):
    """(path below the folder, class name) of the videos of both halves."""
    return [
        [(item.path.removeprefix(f"{root}/"), source.labels[item.label]) for item in half]
        for half in (source.train, source.val)
    ]


def comes_back(source, root):
    """The split file gives the same videos."""
    write_split(root / "split.csv", source)
    back = read_split(root / "split.csv", root, source.labels)
    (root / "split.csv").unlink()
    return (back.train, back.val) == (source.train, source.val)


# Kinetics

HEADER = "label,youtube_id,time_start,time_end,split"
TRAIN = f"{HEADER},is_cc\nair drumming,-0347ZoDXyP,95,105,train,0\nabseiling,a_Z7ZoDXyP0,3,13,train,1\n"
VALIDATE = f'{HEADER}\n"abseiling",b347ZoDXyP0,1000,1010,validate\nzumba,cccccccccc0,0,10,validate\n'


@pytest.mark.parametrize(
    ("train", "drumming", "abseiling"),
    [
        ("train", "-0347ZoDXyP_000095_000105.mp4", "a_Z7ZoDXyP0_000003_000013.mp4"),
        ("train/{}", "-0347ZoDXyP_000095_000105.mkv", "a_Z7ZoDXyP0_000003_000013.webm"),
        ("videos/train/{}", "-0347ZoDXyP.mp4", "a_Z7ZoDXyP0.mp4"),
        ("videos_train/{}", "-0347ZoDXyP_95_105.mp4", "a_Z7ZoDXyP0_000003_000013.MP4"),
        ("{}", "-0347ZoDXyP.mp4", "a_Z7ZoDXyP0_000003_000013.mp4"),
        ("", "-0347ZoDXyP.mp4", "a_Z7ZoDXyP0_000003_000013.mp4"),
    ],
)
@pytest.mark.parametrize("blank", [" ", "_"])
def test_kinetics(train, drumming, abseiling, blank, tmp_path):
    places = [(train.format(f"air{blank}drumming") + "/" + drumming).lstrip("/")]
    places += [(train.format("abseiling") + "/" + abseiling).lstrip("/")]
    make(tmp_path, *places, "val/abseiling/b347ZoDXyP0_001000_001010.mp4")
    make(tmp_path, "train.csv", content=TRAIN)
    make(tmp_path, "validate.csv", content=VALIDATE)
    make(tmp_path, "test.csv", content="youtube_id,time_start,time_end,split\nxxxxxxxxxxx,0,10,test\n")
    source = read_source(tmp_path)
    assert source.labels == known_labels("kinetics400")
    assert told(source, tmp_path) == [
        [(places[0], "air drumming"), (places[1], "abseiling")],
        [("val/abseiling/b347ZoDXyP0_001000_001010.mp4", "abseiling")],
    ]
    assert source.train[0].name == "-0347ZoDXyP_000095_000105"
    assert source.missing == {"val": ("cccccccccc0_000000_000010",)}
    assert source.how.endswith("validate.csv; 1 of 2 videos of validate.csv are missing")
    assert comes_back(source, tmp_path)


def test_which_kinetics(tmp_path):
    for place, label in (("a", "acting in play"), ("kinetics700", "abseiling"), ("b", "my own")):
        make(tmp_path, f"{place}/x.mp4", f"{place}/y.mp4")
        content = f"label,youtube_id,time_start,time_end\n{label},x,0,1\nabseiling,y,0,1\n"
        make(tmp_path, f"{place}/train.csv", f"{place}/val.csv", content=content.replace("abseiling,y,0,1\n", "", 0))
    make(tmp_path, *(f"{place}/z.mp4" for place in ("a", "kinetics700", "b")))
    for place, labels in (("a", known_labels("kinetics600")), ("b", ("abseiling", "my own"))):
        make(tmp_path, f"{place}/val.csv", content="label,youtube_id\nabseiling,z\n")
        assert read_source(tmp_path / place).labels == labels
    make(tmp_path, "kinetics700/val.csv", content="label,youtube_id\nabseiling,z\n")
    assert read_source(tmp_path / "kinetics700").labels == known_labels("kinetics700")


def test_kinetics_without_labels_or_videos(tmp_path):
    make(tmp_path, "test.csv", content="youtube_id,time_start,time_end,split\nxxxxxxxxxxx,0,10,test\n")
    with pytest.raises(BadInput, match=r"test.csv has no labels, as the test half of Kinetics"):
        read_items(tmp_path, known_labels("kinetics400"))
    make(tmp_path, "train.csv", content=TRAIN)
    make(tmp_path, "val.csv", content=VALIDATE)
    with pytest.raises(MissingFile, match=r"Not one video of .*train.csv.*-0347ZoDXyP_000095_000105.mp4. .*--videos"):
        read_source(tmp_path)


def test_kinetics_710_keeps_validation_videos_out_of_training(tmp_path):
    root = tmp_path / "k710"
    train = ["k400/-0347ZoDXyP_000095_000105.mp4 1", "k600/a_Z7ZoDXyP0.mp4 709", "k700/b347ZoDXyP0_000001_000011.mp4 3"]
    val = ["k400/cccccccccc0_000000_000010.mp4 2"]
    make(root, *(f"videos/{line.split()[0]}" for line in train + val))
    make(root, "k400_train.txt", content=train[0] + "\n")
    make(root, "k600_train.txt", content=train[1] + "\n" + train[2] + "\n")
    make(root, "k400_val.txt", content=val[0] + "\n")
    # In the csv file of one of the three it is in validation.
    make(root, "annotations/kinetics600_validate.csv", content=f"{HEADER}\nzumba,b347ZoDXyP0,1,11,validate\n")
    source = read_source(root)
    labels = known_labels("kinetics710")
    assert source.labels == labels
    assert told(source, root / "videos") == [
        [("k400/-0347ZoDXyP_000095_000105.mp4", labels[1]), ("k600/a_Z7ZoDXyP0.mp4", labels[709])],
        [("k400/cccccccccc0_000000_000010.mp4", labels[2])],
    ]
    assert "1 left out of training" in source.how
    assert read_source(root, SourceArgs(format="kinetics710")) == source


# Something-Something and Jester

V2 = ("Holding [something] next to [something]", "Approaching [something] with your camera")


@pytest.mark.parametrize("names", [("train", "validation", "labels"), ("something-something-v2-{}",) * 3])
@pytest.mark.parametrize("folder", ["20bn-something-something-v2/", "videos/", "", "my_something_mp4s/"])
def test_something_v2(names, folder, tmp_path):
    train, validation, labels = (
        f"labels/{name.format(half)}.json" for name, half in zip(names, ("train", "validation", "labels"), strict=True)
    )
    entry = {"id": "78687", "label": "holding potato next to bottle", "template": V2[0], "placeholders": ["potato"]}
    make(tmp_path, train, content=[entry, {"id": "2", "template": V2[1]}])
    make(tmp_path, validation, content=[{"template": V2[0], "id": 3}, {"template": V2[0], "id": "4"}])
    make(tmp_path, labels, content={name: str(i) for i, name in enumerate(known_labels("something-something-v2"))})
    make(tmp_path, "labels/test.json", content=[{"id": "9"}])
    make(tmp_path, "labels/test-answers.csv", content="9;Approaching something with your camera\n")
    make(tmp_path, f"{folder}78687.webm", f"{folder}2.mp4", f"{folder}3.webm")
    source = read_source(tmp_path)
    assert source.labels == known_labels("something-something-v2")
    assert told(source, tmp_path) == [
        [(f"{folder}78687.webm", V2[0].replace("[", "").replace("]", "")), (f"{folder}2.mp4", source.labels[0])],
        [(f"{folder}3.webm", "Holding something next to something")],
    ]
    assert source.missing == {"val": ("4",)}
    assert comes_back(source, tmp_path)


def test_something_v2_of_dist(tmp_path):
    """Lists with `label_idx`, whose indices are those of labels.json."""
    names = list(known_labels("something-something-v2"))[::-1]
    make(tmp_path, "labels.json", content={name: index for index, name in enumerate(names)})
    make(tmp_path, "something-something-v2-train-with-label.json", content=[{"id": "1", "label_idx": 0}])
    make(tmp_path, "something-something-v2-validation-with-label.json", content=[{"id": "2", "label_idx": "3"}])
    make(tmp_path, "1.mp4", "2.mp4")
    source = read_source(tmp_path)
    assert told(source, tmp_path) == [[("1.mp4", names[0])], [("2.mp4", names[3])]]


def test_something_v2_without_labels(tmp_path):
    make(tmp_path, "test.json", content=[{"id": "9"}])
    with pytest.raises(BadInput, match=r"test.json has no labels"):
        read_items(tmp_path, known_labels("something-something-v2"), args=SourceArgs(format="ssv2"))
    make(tmp_path, "train.json", content=[{"id": "9", "template": V2[0]}, {"id": "8"}])
    with pytest.raises(BadInput, match=r"train.json, entry 2 has no id with a template or label_idx"):
        read_source(tmp_path)


def pictures(root, *folders):
    for folder in folders:
        make(root, *(f"{folder}/{i:05}.jpg" for i in (1, 2, 3)))


def test_something_v1(tmp_path):
    comma = "Putting something that can't roll onto a slanted surface, so it stays where it is"
    labels = known_labels("something-something-v1")
    make(tmp_path, "something-something-v1-labels.csv", content="".join(f"{name}\n" for name in sorted(labels)))
    make(tmp_path, "something-something-v1-train.csv", content=f"100218;{labels[5]}\n7;{comma}\n")
    make(tmp_path, "something-something-v1-validation.csv", content=f"8;{labels[0]}\n")
    make(tmp_path, "something-something-v1-test.csv", content="9\n")
    pictures(tmp_path, *(f"20bn-something-something-v1/{name}" for name in (100218, 7, 8)))
    source = read_source(tmp_path)
    frames = FrameFiles("{:05}.jpg", 1, 3, 12.0)
    # Official files have their names in another order than the published class indices.
    assert source.labels == labels
    assert source.train[0] == Item(str(tmp_path / "20bn-something-something-v1/100218"), 5, "100218", frames=frames)
    assert source.labels[source.train[1].label] == comma
    assert comes_back(source, tmp_path)


def test_jester(tmp_path):
    make(tmp_path, "jester-v1-train.csv", content="34870;Drumming Fingers\n1;Stop Sign\n")
    make(tmp_path, "jester-v1-validation.csv", content="2;Stop Sign\n")
    make(tmp_path, "jester-v1-labels.csv", content="".join(f"{name}\n" for name in known_labels("jester")))
    pictures(tmp_path, "20bn-jester-v1/34870", "20bn-jester-v1/1", "20bn-jester-v1/2")
    source = read_source(tmp_path)
    assert source.labels == known_labels("jester")
    assert [source.labels[item.label] for item in source.train + source.val] == [
        "Drumming Fingers",
        "Stop Sign",
        "Stop Sign",
    ]
    make(tmp_path, "jester-v1-train.csv", content="34870;Drumming Fingers\n1\n")
    with pytest.raises(BadInput, match=r"jester-v1-train.csv:2 is '1'; expected id;label"):
        read_source(tmp_path)


# UCF101, HMDB51, Diving48


@pytest.mark.parametrize("lists", ["", "ucfTrainTestlist/"])
@pytest.mark.parametrize(("videos", "suffix"), [("", "avi"), ("UCF-101/", "avi"), ("videos/", "mp4")])
def test_ucf101(lists, videos, suffix, tmp_path):
    names = known_labels("ucf101")
    make(tmp_path, f"{lists}classInd.txt", content="".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    for fold in (1, 2, 3):
        train = f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{fold}_c01.avi 1\r\nYoYo/v_YoYo_g08_c01.avi 101\r\n"
        make(tmp_path, f"{lists}trainlist0{fold}.txt", content=train)
        make(tmp_path, f"{lists}testlist0{fold}.txt", content="Archery/v_Archery_g01_c01.avi\n")
    make(tmp_path, f"{videos}YoYo/v_YoYo_g08_c01.{suffix}", f"{videos}Archery/v_Archery_g01_c01.{suffix}")
    make(tmp_path, *(f"{videos}ApplyEyeMakeup/v_ApplyEyeMakeup_g0{i}_c01.{suffix}" for i in (1, 2, 3)))
    source = read_source(tmp_path, SourceArgs(fold=2))
    assert source.labels == names
    assert told(source, tmp_path) == [
        [
            (f"{videos}ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.{suffix}", "ApplyEyeMakeup"),
            (f"{videos}YoYo/v_YoYo_g08_c01.{suffix}", "YoYo"),
        ],
        [(f"{videos}Archery/v_Archery_g01_c01.{suffix}", "Archery")],
    ]
    assert source.train[0].label == 0
    assert source.train[1].label == 100
    assert comes_back(source, tmp_path)
    assert len(read_part(tmp_path, names, "val", SourceArgs(fold=3)).items) == 1
    with pytest.raises(UnknownName, match=r"Unknown fold '4'.*1, 2, 3"):
        read_source(tmp_path, SourceArgs(fold=4))


ODD = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "(HQ)_a;b&c[1]_run_f_cm_np1_ba_med_7.avi", "a b_run_1.avi"


@pytest.mark.parametrize("lists", ["", "testTrainMulti_7030_splits/"])
def test_hmdb51(lists, tmp_path):
    for fold in (1, 2, 3):
        make(tmp_path, f"{lists}clap_test_split{fold}.txt", content=f"{ODD[0]} 1 \nx_clap.avi {fold - 1} \n")
        make(tmp_path, f"{lists}run_test_split{fold}.txt", content=f"{ODD[1]} 2 \n{ODD[2]} 1\n")
    make(tmp_path, f"hmdb51_org/clap/{ODD[0]}", "hmdb51_org/clap/x_clap.avi", *(f"hmdb51_org/run/{n}" for n in ODD[1:]))
    halves = [
        [len(half) for half in told(read_source(tmp_path, SourceArgs(fold=fold)), tmp_path)] for fold in (1, 2, 3)
    ]
    assert halves == [[2, 1], [3, 1], [2, 2]]
    source = read_source(tmp_path)
    assert source.labels == known_labels("hmdb51")
    assert told(source, tmp_path) == [
        [(f"hmdb51_org/clap/{ODD[0]}", "clap"), (f"hmdb51_org/run/{ODD[2]}", "run")],
        [(f"hmdb51_org/run/{ODD[1]}", "run")],
    ]
    assert source.val[0].name == f"run/{ODD[1]}"
    assert comes_back(source, tmp_path)
    make(tmp_path, f"{lists}run_test_split1.txt", content="a.avi 3\n")
    with pytest.raises(BadInput, match=r"run_test_split1.txt:1 is 'a.avi 3'; expected a video and 0, 1 or 2"):
        read_source(tmp_path)


def test_diving48(tmp_path):
    entry = {"vid_name": "k_Nq3SwuJyA_00045", "label": 26, "start_frame": 0, "end_frame": 78}
    make(tmp_path, "Diving48_V2_train.json", content=[entry, {"label": 0, "vid_name": "b"}])
    make(tmp_path, "Diving48_V2_test.json", content=[{"vid_name": "c", "label": 47, "start_frame": 0, "end_frame": 9}])
    vocabulary = [name.split("+") for name in known_labels("diving48")]
    make(tmp_path, "Diving48_vocab.json", content=vocabulary)
    make(tmp_path, "rgb/k_Nq3SwuJyA_00045.mp4", "rgb/b.mp4", "rgb/c.mp4")
    source = read_source(tmp_path)
    assert source.labels == known_labels("diving48")
    assert [item.label for item in source.train + source.val] == [26, 0, 47]
    assert source.train[0] == Item(str(tmp_path / "rgb/k_Nq3SwuJyA_00045.mp4"), 26, "k_Nq3SwuJyA_00045")
    assert comes_back(source, tmp_path)
    (tmp_path / "Diving48_vocab.json").unlink()
    assert read_source(tmp_path).labels == source.labels


# EPIC-KITCHENS-100

EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
EPIC_TRAIN = EPIC + (
    "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,['plate'],[2]\n"
    'P01_11_1,P01,P01_11,00:00:02.5,00:01:02.5,01:00:03.25,3750,3795,"put knife, fork",put,1,knife,4,'
    "\"['knife', 'fork']\",\"[4, 5]\"\n"
)
EPIC_VAL = EPIC + "P02_03_7,P02,P02_03,00:00:09,00:00:09.10,00:00:10.20,545,612,wash tap,wash,2,tap,0,['tap'],[0]\n"


def epic(root):
    make(root, "EPIC_100_train.csv", content=EPIC_TRAIN)
    make(root, "EPIC_100_validation.csv", content=EPIC_VAL)
    make(root, "EPIC_100_test_timestamps.csv", content="narration_id,participant_id,video_id\nP01_1,P01,P01_1\n")
    make(root, "EPIC_100_uda_source_train.csv", content=EPIC_VAL)
    make(root, "EPIC_100_retrieval_train.csv", content="narration_id,video_id,narration\nP01_1,P01,take\n")


@pytest.mark.parametrize("place", ["P01/videos/P01_11.MP4", "P01_11.mp4", "EPIC-KITCHENS/P01/videos/P01_11.MP4"])
def test_epic_kitchens(place, tmp_path):
    epic(tmp_path)
    make(tmp_path, place, place.replace("P01", "P02").replace("_11", "_03"))
    path = str(tmp_path / place)
    source = read_source(tmp_path, SourceArgs(label="verb"))
    assert source.labels == known_labels("epic-kitchens-100-verbs")
    assert source.train == (
        Item(path, 0, "P01_11_0", 0.0, 1.89),
        Item(path, 1, "P01_11_1", 62.5, 3603.25),
    )
    assert [(item.name, item.label) for item in source.val] == [("P02_03_7", 2)]
    assert comes_back(source, tmp_path)
    nouns = read_items(tmp_path, known_labels("epic-kitchens-100-nouns"), "all", SourceArgs(label="noun"))
    assert [(item.name, item.label) for item in nouns] == [("P01_11_0", 2), ("P01_11_1", 4), ("P02_03_7", 0)]
    with pytest.raises(BadInput, match="have a verb and a noun; .*--label verb or --label noun"):
        read_source(tmp_path)


def test_epic_kitchens_as_pictures_and_with_its_own_classes(tmp_path):
    epic(tmp_path)
    for video in ("P01/rgb_frames/P01_11", "P02/rgb_frames/P02_03"):
        make(tmp_path, *(f"{video}/frame_{i:010}.jpg" for i in (1, 2, 3)))
    make(
        tmp_path,
        "EPIC_100_verb_classes.csv",
        content="id,key,instances,category\n1,lay,\"['lay']\",a\n0,grab,[],b\n2,rinse,[],c\n",
    )
    source = read_source(tmp_path, SourceArgs(label="verb"))
    assert source.labels == ("grab", "lay", "rinse")
    assert source.train[1].frames == FrameFiles("frame_{:010}.jpg", 3750, 46)
    assert comes_back(source, tmp_path)


def test_epic_kitchens_that_cannot_be(tmp_path):
    make(tmp_path, "EPIC_100_test_timestamps.csv", content="narration_id,participant_id,video_id\nP01_1,P01,P01_1\n")
    with pytest.raises(BadInput, match="EPIC_100_test_timestamps.csv has no column verb_class, as the test half"):
        read_items(tmp_path, ["a"], args=SourceArgs(label="verb"))
    epic(tmp_path)
    with pytest.raises(MissingFile, match=r"Not one video.*P01/videos/P01_11.MP4"):
        read_source(tmp_path, SourceArgs(label="noun"))
    make(tmp_path, "P01_11.MP4", "P02_03.MP4")
    make(tmp_path, "EPIC_100_train.csv", content=EPIC_TRAIN.replace("01:00:03.25", "1 h"))
    with pytest.raises(BadInput, match=r"EPIC_100_train.csv:3: '1 h' is no time"):
        read_source(tmp_path, SourceArgs(label="noun"))


# Which of them it is


def test_formats_are_told_apart_or_asked_for(tmp_path):
    make(tmp_path, "train.csv", content=TRAIN)
    make(tmp_path, "val.csv", content=VALIDATE)
    make(tmp_path, "train.json", content=[{"id": "9", "template": V2[0]}])
    make(tmp_path, "mine_train_list.txt", content="a.mp4 0\nb.mp4 1\n9.webm 1\n")
    make(tmp_path, "a.mp4", "b.mp4", "-0347ZoDXyP.mp4", "a_Z7ZoDXyP0.mp4", "b347ZoDXyP0.mp4", "9.webm")
    with pytest.raises(
        BadInput, match=r"may be read as kinetics \(.*\); ssv2 \(.*\); list \(.*\). .*--format kinetics"
    ):
        read_source(tmp_path)
    assert len(read_source(tmp_path, SourceArgs(format="kinetics")).train) == 2
    assert [item.name for item in read_source(tmp_path / "mine_train_list.txt").train][:1] == ["a.mp4"]
    with pytest.raises(BadInput, match=r"holds no trainlist01.txt"):
        read_source(tmp_path, SourceArgs(format="ucf101"))
    make(tmp_path, "plain/run/a.mp4", "plain/jump/b.mp4", "plain/run/c.mp4")
    for name in ("kinetics", "kinetics710", "ssv1", "ssv2", "jester", "ucf101", "hmdb51", "diving48", "list", "shards"):
        with pytest.raises(BadInput, match=r"plain holds no"):
            read_source(tmp_path / "plain", SourceArgs(format=name))
    with pytest.raises(BadInput, match=r"plain holds no EPIC_100_train.csv"):
        read_source(tmp_path / "plain", SourceArgs(format="epic", label="verb"))
