"""Twitter2015, MMSD, MMSD2.0, Food-101 and MVSA in each layout in which they are found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer_client.reference.datasets import making
from trainer_client.reference.datasets import SETS, Index, read_set
from trainer_client.reference.datasets.folder import Text
from trainer_client.reference.datasets.media import Decoding, Pictures, Tokens
from trainer_client.reference.datasets.pictures_and_texts import agreed
from trainer_client.reference.datasets.samples import MediaDataset


def lengths(*texts: str, padding: str, truncation: bool, max_length: int) -> dict[str, Any]:
    """In place of a tokenizer of transformers: words become their lengths."""
    ids = [len(word) for text in texts for word in text.split()][:max_length]
    return {"input_ids": ids + [0] * (max_length - len(ids))}


def texts(index: Index) -> list[Text]:
    return [sample.media["text"] for sample in index.samples]  # type: ignore[misc]


def tokens(index: Index, split: str = "train") -> dict[str, torch.Tensor]:
    media, _ = MediaDataset(index, split, Decoding(pictures=Pictures(side=8), text=Tokens(lengths, 6)))[0]
    return media


def test_texts_are_tokenised_by_a_tokenizer_of_transformers() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "see": 2, "rome": 3}, "[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    assert Tokens(tokenizer, 5)(Text("see rome now", "rome")).tolist() == [2, 3, 1, 3, 0]
    assert Tokens(tokenizer, 2)(Text("see rome now")).tolist() == [2, 3]


HEADER = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String"


def twitter_indexed(root: Path) -> None:
    for part, number in (("train", 1), ("dev", 2), ("test", 3)):
        rows = f'1\t{number - 1}\t{number}.jpg\tSee "$T$ there\tRome\r\n2\t2\t{number}.jpg\tRome and $T$\tParis\r\n'
        making.write(root / f"{part}.tsv", f"{HEADER}\r\n{rows}")
        making.picture(root / "twitter2015_images" / f"{number}.jpg")


def twitter_plain(root: Path) -> None:
    for part, number in (("train", 1), ("valid", 2), ("test", 3)):
        rows = f'{number - 1}\t{number}.jpg\tSee "Rome there\n2\t{number}.jpg\tRome and Paris\n'
        making.write(root / "annotations" / f"{part}_data.tsv", f"Label\tImageID\tString\n{rows}")
        making.picture(root / "twitter2015_images" / f"{number}.jpg")


@pytest.mark.parametrize(("make", "target"), [(twitter_indexed, "Rome"), (twitter_plain, None)])
def test_twitter2015(make: Callable[[Path], None], target: str | None, tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "twitter2015")
    assert index.counts() == {"train": 2, "validation": 2, "test": 2}
    assert index.classes == ("negative", "neutral", "positive")
    assert [sample.label for sample in index.samples] == [0, 2, 1, 2, 2, 2]
    assert texts(index)[0] == Text('See "Rome there', target)
    media = tokens(index)
    assert media["image"].shape == (3, 8, 8)
    assert media["text"].tolist() == [3, 5, 5, 4 if target else 0, 0, 0]


def test_lines_of_twitter2015_that_are_cut_or_repeated(tmp_path: Path) -> None:
    twitter_indexed(tmp_path)
    with (tmp_path / "test.tsv").open("a") as file:
        file.write(
            "3\t1\t3.jpg\tcut\n4\t7\t3.jpg\t$T$\tRome\n5\t2\t3.jpg\tRome and $T$\tParis\n6\t0\t9.jpg\t$T$\tRome\n"
        )
    report = read_set(tmp_path, "twitter2015", leave_out=True).report
    assert [line.partition(":")[2][:1] for line in report.broken] == ["4", "5"]
    assert report.duplicates == ("test.tsv:6: 3.jpg/Paris/Rome and $T$ as test.tsv:3",)
    assert report.missing == ("twitter2015_images/9.jpg",)


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    twitter_plain(tmp_path)
    with pytest.raises(ValueError, match=r"text must be Tokens\(tokenizer\)"):
        MediaDataset(read_set(tmp_path, "twitter2015"), "train")[0]


def sarcasm_lines(root: Path) -> None:
    making.write(root / "train.txt", "['11', 'so \\'nice\\' of you', 1]\n['12', 'what irony', 1]\n['13', 'rain', 0]\n")
    making.write(root / "valid.txt", "['14', 'fine', 1]\n")
    making.write(root / "valid2.txt", "['14', 'fine', 1, 0]\n")
    making.write(root / "test2.txt", "['15', 'great', 0, 1]\n")


def sarcasm_json(root: Path) -> None:
    for part, records in (
        ("train", [("11", "so 'nice' of you", 1), ("13", "rain", 0)]),
        ("valid", [("14", "fine", 0)]),
        ("test", [("15", "great", 1)]),
    ):
        named = [{"image": f"{name}.jpg", "text": text, "label": label} for name, text, label in records]
        making.write(root / "text_json_clean" / f"{part}.json", "\ufeff" + json.dumps(named))


def sarcasm_2(root: Path) -> None:
    for part, records in (
        ("train", [("11", "so 'nice' of you", 1), ("13", "rain", 0)]),
        ("valid", [("14", "fine", 0)]),
        ("test", [("15", "great", 1)]),
    ):
        named = [{"image_id": name, "text": text, "label": label} for name, text, label in records]
        making.write(root / "text_json_final" / f"{part}.json", json.dumps(named))


@pytest.mark.parametrize(("make", "name"), [(sarcasm_lines, "mmsd"), (sarcasm_json, "mmsd"), (sarcasm_2, "mmsd2")])
def test_sarcasm(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    make(tmp_path)
    for number in (11, 12, 13, 14, 15):
        making.picture(tmp_path / "dataset_image" / f"{number}.jpg")
    index = read_set(tmp_path, name)
    assert index.counts() == {"train": 2, "validation": 1, "test": 1}
    assert [(sample.key, sample.label) for sample in index.samples] == [("11", 1), ("13", 0), ("14", 0), ("15", 1)]
    assert texts(index)[0] == Text("so 'nice' of you")
    assert tokens(index)["text"].tolist() == [2, 6, 2, 3, 0, 0]
    left_out = ("1 training tweets that name sarcasm are left out, as Cai et al. (ACL 2019) do",)
    assert index.report.notes == (left_out if make is sarcasm_lines else ())


def test_what_is_no_list_is_not_run(tmp_path: Path) -> None:
    sarcasm_lines(tmp_path)
    with (tmp_path / "test2.txt").open("a") as file:
        file.write("__import__('os').abort()\n['16', 'no label']\n")
    report = read_set(tmp_path, "mmsd", leave_out=True).report
    assert [line.partition(" ")[0] for line in report.broken] == ["test2.txt:2:", "test2.txt:3:"]
    assert "image was looked for as dataset_image/{id}.jpg, images/{id}.jpg, image/{id}.jpg" in report.notes


def test_json_that_is_none_or_lacks_a_field(tmp_path: Path) -> None:
    sarcasm_2(tmp_path)
    making.write(tmp_path / "text_json_final" / "test.json", '[{"image_id": 1, "text": "x"}, 5]')
    assert len(read_set(tmp_path, "mmsd2", leave_out=True).report.broken) == 2
    making.write(tmp_path / "text_json_final" / "test.json", '[{"image_id": ')
    with pytest.raises(ValueError, match=r"test\.json is not JSON"):
        read_set(tmp_path, "mmsd2")


def food_titles(root: Path) -> None:
    for part, numbers in (("train", (0, 1, 2, 3)), ("test", (4, 5))):
        rows = "".join(f'"Pie, the {k}th",{"apple_pie" if k % 2 else "sushi"},x_{k}.jpg\n' for k in numbers)
        making.write(root / "texts" / f"{part}_titles.csv", f"text,label,Image_path\n{rows}")
        for k in numbers:
            making.picture(root / "images" / part / ("apple_pie" if k % 2 else "sushi") / f"x_{k}.jpg")


def food_bare(root: Path) -> None:
    food_titles(root)
    for path in (root / "texts").iterdir():
        rows = [line.split('"') for line in path.read_text().splitlines()[1:]]
        bare = [(text, *rest.strip(",").split(",")) for _, text, rest in rows]
        path.write_text("".join(f'{picture},"{text}",{label}\n' for text, label, picture in bare))


@pytest.mark.parametrize("make", [food_titles, food_bare])
def test_food_101(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "food-101")
    assert index.counts() == {"train": 3, "validation": 1, "test": 2}
    assert index.classes == ("apple_pie", "sushi")
    assert texts(index)[1] == Text("Pie, the 1th")
    (tmp_path / "images" / "test" / "sushi" / "x_4.jpg").unlink()
    assert read_set(tmp_path, "food-101", leave_out=True).report.missing == ("images/test/sushi/x_4.jpg",)


def mvsa_annotators(root: Path) -> None:
    rows = [
        "ID\ttext,image",
        "1\tpositive,positive",
        "2\tneutral,negative",
        "3\tpositive,negative",
        "4\tneutral,neutral",
    ]
    making.write(root / "labelResultAll.txt", "\r\n".join([*rows, "5\tnegative,neutral", "6\tpositive,neutral"]))
    for number in range(1, 7):
        making.write(root / "data" / f"{number}.txt", f"tweet {number}\r\n")
        making.picture(root / "data" / f"{number}.jpg")


def mvsa_lists(root: Path) -> None:
    mvsa_annotators(root)
    (root / "labelResultAll.txt").unlink()
    making.write(root / "my_train_mvsa.txt", "1.jpg positive\n2.jpg negative\n4.jpg neutral\n")
    making.write(root / "my_test_mvsa.txt", "5.jpg negative\n6.jpg positive")


@pytest.mark.parametrize("make", [mvsa_annotators, mvsa_lists])
def test_mvsa(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "mvsa")
    assert {sample.key: sample.label for sample in index.samples} == {"1": 2, "2": 0, "4": 1, "5": 0, "6": 2}
    assert min(index.counts().values()) >= 1
    assert texts(index)[0] == Text("tweet 1")
    (tmp_path / "data" / "2.txt").unlink()
    (tmp_path / "data" / "4.jpg").unlink()
    assert read_set(tmp_path, "mvsa", leave_out=True).report.missing == ("data/2.txt", "data/4.jpg")


def test_annotators_of_mvsa_vote(tmp_path: Path) -> None:
    rows = "ID\ttext,image\ttext,image\ttext,image\n1\tpositive,neutral\tpositive,neutral\tnegative,positive\n"
    making.write(tmp_path / "labelResultAll.txt", rows + "2\tpositive,neutral\tnegative,neutral\tneutral,neutral\n")
    for number in (1, 2):
        making.write(tmp_path / "data" / f"{number}.txt", "x")
        making.picture(tmp_path / "data" / f"{number}.jpg")
    with pytest.raises(ValueError, match="groups must be enough to hold some out and keep some, got 1"):
        read_set(tmp_path, "mvsa")
    assert agreed("positive", "neutral") == agreed("neutral", "positive") == "positive"
    assert agreed("negative", "positive") is None


def test_what_is_published() -> None:
    names = ("twitter2015", "mmsd", "mmsd2", "food-101", "mvsa")
    assert {name: SETS[name].published[0].counts() for name in names} == {
        "twitter2015": {"train": 3179, "validation": 1122, "test": 1037},
        "mmsd": {"train": 19_816, "validation": 2_410, "test": 2_409},
        "mmsd2": {"train": 19_816, "validation": 2_410, "test": 2_409},
        "food-101": {"train": 67_972, "test": 22_716},
        "mvsa": {"train": 4_511},
    }
