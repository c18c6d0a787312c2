"""Names of the classes."""

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_viz.errors import CheckpointError
from cait_viz.weights.labels import class_index, class_names


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "labels.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(count, path):
    with pytest.raises(CheckpointError) as caught:
        class_names(count, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0, "tench, Tinca tinca"),
        (207, "golden retriever"),
        (281, "tabby, tabby cat"),
        (285, "Egyptian cat"),
        (559, "folding chair"),
        (999, "toilet tissue, toilet paper"),
    ],
)
def test_thousand_classes_have_imagenets_names_in_the_usual_order(index, name):
    assert class_names(1000)[index] == name


def test_no_two_imagenet_classes_have_the_same_name():
    assert len(set(class_names(1000))) == 1000


def test_classes_are_found_by_name_and_imagenets_by_their_wordnet_id_too():
    assert class_index(("golden retriever", "mine")) == {"golden retriever": 0, "mine": 1, "n02099601": 0}
    assert len(class_index(class_names(1000))) == 2000


@pytest.mark.parametrize("count", [1, 10, 999, 1001])
def test_other_numbers_of_classes_are_numbered(count):
    names = class_names(count)
    assert len(names) == count
    assert names[0] == "class 0"
    assert names[-1] == f"class {count - 1}"


@pytest.mark.parametrize(
    "content",
    [
        "rose\nžluťoučký kůň\nbee orchid, Ophrys apifera\n",
        "rose\nžluťoučký kůň\nbee orchid, Ophrys apifera",
        "\ufeffrose\r\nžluťoučký kůň\r\nbee orchid, Ophrys apifera\r\n\r\n  \r\n",
        "rose\ržluťoučký kůň\rbee orchid, Ophrys apifera\r",
        "  rose \n\tžluťoučký kůň\nbee orchid, Ophrys apifera\n\n\n",
    ],
)
def test_file_of_names_is_read_whatever_its_line_ends(write, content):
    assert class_names(3, write(content)) == ("rose", "žluťoučký kůň", "bee orchid, Ophrys apifera")


def test_file_of_names_goes_before_imagenets(write):
    names = "\n".join(f"kind {index}" for index in range(1000))
    assert class_names(1000, str(write(names)))[5] == "kind 5"


NAMES = ("tench", "žluťoučký kůň", "great white shark")


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize(
    "content",
    [
        list(NAMES),
        dict(enumerate(NAMES)),
        {"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]},
        {"id2label": dict(enumerate(NAMES)), "label2id": {"tench": 0}, "num_labels": 3},
        {"id2label": list(NAMES)},
        {"label_names": list(NAMES), "architecture": "cait_xxs24_224"},
    ],
)
@pytest.mark.parametrize("name", ["labels.txt", "config.json"])
def test_a_file_of_json_is_read_as_such_whatever_its_name(tmp_path, content, indent, name):
    (tmp_path / name).write_text(json.dumps(content, indent=indent), encoding="utf-8-sig")
    assert class_names(3, tmp_path / name) == NAMES


@settings(max_examples=25)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=("C", "Z")), min_size=1),
        min_size=1,
        max_size=30,
        unique=True,
    )
)
def test_any_names_come_back_from_any_form(names):
    numbered = dict(enumerate(names))
    contents = [names, numbered, {"torch_dtype": None, "id2label": numbered, "label2id": {}}]
    texts = [json.dumps(content) for content in contents]
    with tempfile.TemporaryDirectory() as folder:
        for text, suffix in itertools.product(texts, ("json", "txt")):
            path = Path(folder, f"labels.{suffix}")
            path.write_text(text, encoding="utf-8")
            assert class_names(len(names), path) == tuple(names)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (["a", "b"], "names 2 classes and the model has 3"),
        ({"0": "a", "1": "b", "2": "c", "3": "d"}, "names 4 classes and the model has 3"),
        ({}, "names 0 classes"),
        ({"0": "a", "2": "b", "3": "c"}, "none for class 1"),
        ({"1": "a", "2": "b", "3": "c"}, "none for class 0"),
        ({"00": "a", "1": "b", "2": "c"}, "none for class 0"),
        ({"a": 0, "b": 1, "c": 2}, "other JSON than names"),
        ({"0": ["n1", "a"], "1": ["n2", "b"], "2": ["n3", "c"]}, "other JSON than names"),
        (["a", ["b"], "c"], "other JSON than names"),
        ([1, 2, 3], "other JSON than names"),
        ({"architectures": ["CaitModel"]}, "other JSON than names"),
        ({"id2label": None}, "other JSON than names"),
        ("tench", "other JSON than names"),
        (["a", "", "c"], "class 1 is empty"),
        (["a", "b", "c\n"], "names 4"),
        (["a", "b\x1b[31m", "c"], "class 1 holds control characters"),
        (["a", "\ud800", "c"], "class 1 holds control characters"),
    ],
)
def test_json_that_does_not_name_the_classes_is_refused(tmp_path, content, words):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    if content == ["a", "b", "c\n"]:  # space around a name is no part of it
        assert class_names(3, path) == ("a", "b", "c")
    else:
        assert words in refusal(3, path)


@pytest.mark.parametrize("content", ["", "{", '["a", "b", "c"', "a\nb\nc"])
def test_a_json_file_that_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_text(content)
    assert refusal(3, path).startswith("labels.json: is not valid JSON (")


@pytest.mark.parametrize(
    "content",
    [
        '{\n"0": "a"\n}}',
        '["a",\n"b",\n"c"',
        '["a", "b", "c",]',
        "{0: 'a',\n 1: 'b',\n 2: 'c'}",
        '{"0": "a"}\n{"1": "b"}\n{"2": "c"}',
        "[a, b, c]\nb\nc",
    ],
)
def test_text_that_begins_as_json_and_is_none_is_no_list_of_names(write, content):
    assert "labels.txt: is not valid JSON (" in refusal(3, write(content))


def test_a_list_of_names_may_begin_with_one_in_brackets(write):
    assert class_names(3, write("[background]\ncat\ndog\n")) == ("[background]", "cat", "dog")


def test_json_that_is_too_deep_is_refused(write):
    assert "labels.txt: is not valid JSON (" in refusal(3, write("[" * 100_000 + "]" * 100_000))


def test_rare_characters_do_not_part_a_name(write):
    assert class_names(1, write("one\u2028name\u00a0👩‍🌾")) == ("one\u2028name\u00a0👩‍🌾",)


@pytest.mark.parametrize(("content", "given"), [("a\nb\n", 2), ("a\nb\nc\nd", 4), ("", 0), ("\n\n", 0)])
def test_a_wrong_number_of_names_is_refused_with_both_numbers(write, content, given):
    message = refusal(3, write(content))
    assert message.startswith(f"labels.txt: names {given} classes and the model has 3;")


def test_an_empty_name_is_refused_by_its_line(write):
    assert "line 2 is empty" in refusal(3, write("a\n\nc\n"))


@pytest.mark.parametrize("content", [b"a\nb\xff\nc", "a\nb\nc".encode("utf-16"), b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_file_that_is_no_utf8_text_is_refused(write, content):
    assert "is not UTF-8 text; save the names as UTF-8" in refusal(3, write(content))


@pytest.mark.parametrize("content", ["a\nb\x1b[31m\nc", "a\nb\0\nc", "a\nb\tc\nd"])
def test_control_characters_are_refused_by_their_line(write, content):
    assert "line 2 holds control characters" in refusal(3, write(content))


def test_labels_that_are_not_there_are_refused(tmp_path):
    assert refusal(3, tmp_path / "gone.txt").startswith("gone.txt: the labels cannot be read (No such file")
    assert "Is a directory" in refusal(3, tmp_path)
