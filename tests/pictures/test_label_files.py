"""CSV files of labels: what they say, and the line that is wrong."""

import os
import threading
import time

import numpy as np
import pytest

from levit.errors import InputError
from levit.pictures.label_files import read_label_file


@pytest.fixture
def read(tmp_path):
    """(text, labels) → the file, of a folder with a.png, b.png and c/d.png."""
    for name in ("a.png", "b.png", "c/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def make(text, labels=("cat", "dog"), *, decisions=True, negative=None):
        path = tmp_path / "labels.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_label_file(path, tmp_path, labels, decisions=decisions, negative=negative)

    return make


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.png,dog\nb.png,\nc/d.png,dog;cat\n",
        "image,label\r\na.png, dog \r\n\r\nb.png,\r\nc/d.png,cat; dog\r\n",
        "\ufeffimage,cat,dog\na.png,0,1\nb.png,0,0\nc/d.png,1,1.0\n",
        'image,dog,"cat"\na.png,1,0\n"b.png",0,0\nc/d.png,1,1',
    ],
)
def test_both_forms_say_the_same(read, text, tmp_path):
    found = read(text)
    assert found.images == tuple(tmp_path / name for name in ("a.png", "b.png", "c/d.png"))
    np.testing.assert_array_equal(found.values, [[0, 1], [0, 0], [1, 1]])


def test_labels_with_commas_are_quoted(read):
    found = read('image,labels\na.png,"tench, Tinca;dog"\n', ("tench, Tinca", "dog"))
    np.testing.assert_array_equal(found.values, [[1, 1]])


@pytest.mark.parametrize("column", ["age", "label", "anything"])
def test_values_are_numbers(read, column):
    found = read(f"image,{column}\na.png,-3.5e1\nb.png,7\n", ("age",), decisions=False)
    np.testing.assert_array_equal(found.values, [[-35], [7]])


@pytest.mark.parametrize(
    ("cells", "negative"),
    [
        (("1", "0"), None),
        (("0", "1"), None),
        (("dog", ""), None),
        (("dog", "0"), None),
        (("dog", "cat"), "cat"),
    ],
)
def test_one_output_is_yes_or_no(read, cells, negative):
    expected = [[float(cell in ("1", "dog"))] for cell in cells]
    text = "\n".join(["image,label", f"a.png,{cells[0]}", f"b.png,{cells[1]}"])
    np.testing.assert_array_equal(read(text, ("dog",), negative=negative).values, expected)


def test_zero_is_no_even_where_it_is_the_name_of_the_yes(read):
    """The label of a model of one output without names is "0"."""
    found = read("image,label\na.png,0\nb.png,1\n", ("0",))
    np.testing.assert_array_equal(found.values, [[0], [1]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a first line such as 'image,labels'"),
        ("image,labels\n", "expected a first line such as 'image,labels'"),
        ("a.png,dog\nb.png,cat\n", "line 1: expected columns 'image' and others, not 'a.png,dog'"),
        ("image\na.png\n", "line 1: expected columns"),
        ("image,cat\na.png,1\n", "line 1: expected a column for each of the model's 2 labels, or"),
        ("image,cat,horse\na.png,1,0\n", "labels: see 'horse'"),
        ("image,cat,dog,cat\na.png,1,0,1\n", "labels: see 'cat'"),
        ("image,cat,dog\na.png,1,0\n\nb.png,1,2\n", "line 4: expected 0 or 1, not '2'"),
        ("image,cat,dog\na.png,1,-1\n", "line 2: expected 0 or 1, not '-1'"),
        ("image,cat,dog\na.png,nan,1\n", "line 2: expected 0 or 1, not 'nan'"),
        ("image,cat,dog\na.png,,1\n", "line 2: expected 0 or 1, not ''"),
        ("image,cat,dog\na.png,1\n", "line 2: 2 cells where the first line has 3"),
        ("image,labels\na.png,cat,dog\n", "line 2: 3 cells where the first line has 2"),
        ("image,labels\na.png,cat;cow;emu\n", "line 2: 'cow' is no label of this model"),
        ("image,labels\nx.png,cat\n", "line 2: .* has no image 'x.png'"),
        ("image,labels\nc,cat\n", "line 2: .* has no image 'c'"),
        ("image,labels\n ,cat\n", "line 2: .* has no image ''"),
        ("image,labels\n" + "x" * 5000 + ",cat\n", "line 2: .* has no image 'xxx"),
        ("image,labels\na.png,cat\n./a.png,cat\n", "line 3: './a.png' stands on line 2 too"),
        ('image,labels\n"a.png,cat\n', "cannot be read"),
        ("image,labels\na.png," + "c" * 200_000, "cannot be read"),
        (b"image,labels\n\xff.png,cat\n", "cannot be read"),
        ("image,labels\n\0,cat\n", "image|cannot be read"),
    ],
)
def test_a_wrong_line_is_named(read, text, words):
    with pytest.raises(InputError, match=rf"labels.csv.*{words}") as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", ["", "old", "inf", "nan", "1,5"])
def test_a_value_is_a_finite_number(read, cell):
    with pytest.raises(InputError, match=r"line 2: (expected a number|3 cells)"):
        read(f"image,age\na.png,{cell}\n", ("age",), decisions=False)


def test_a_name_of_neither_answer_is_refused(read):
    with pytest.raises(InputError, match=r"line 2: expected 'dog' or 'cat', or 1 or 0, not 'cow'"):
        read("image,label\na.png,cow\n", ("dog",), negative="cat")
    with pytest.raises(InputError, match=r"line 2: expected 'dog' or nothing, or 1 or 0, not 'c"):
        read("image,label\na.png,cow\n", ("dog",))


def test_a_name_of_two_classes_says_neither(read):
    cranes = ("crane", "dog", "crane")
    assert read("image,labels\na.png,dog\n", cranes).values.tolist() == [[0, 1, 0]]
    with pytest.raises(InputError, match=r"line 2: 'crane' is the label of several classes"):
        read("image,labels\na.png,dog;crane\n", cranes)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no.csv: labels cannot be read"):
        read_label_file(tmp_path / "no.csv", tmp_path, ["a"], decisions=True)


def test_a_picture_counts_once_however_it_is_named(read):
    with pytest.raises(InputError, match=r"line 3: 'c/../a.png' stands on line 2 too"):
        read("image,labels\na.png,cat\nc/../a.png,cat\n")


def test_a_folder_that_links_lead_to_counts_once(read, tmp_path):
    (tmp_path / "e").symlink_to("c", target_is_directory=True)
    with pytest.raises(InputError, match=r"line 3: 'e/d.png' stands on line 2 too"):
        read("image,labels\nc/d.png,cat\ne/d.png,cat\n")


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_a_pipe_or_a_sparse_file_is_refused_unread(tmp_path, kind):
    path = tmp_path / "labels.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    found = []

    def call():
        try:
            read_label_file(path, tmp_path, ("cat",), decisions=True)
        except InputError as error:
            found.append(str(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(30)
    assert found
    assert {"pipe": "no plain file", "sparse": "larger than 256 MiB"}[kind] in found[0]


def test_a_header_of_many_columns_costs_no_more_than_its_length(read):
    started = time.monotonic()
    with pytest.raises(InputError, match="expected a column for each"):
        read("image," + ",".join(f"c{i}" for i in range(60_000)) + "\na.png,1\n", ("cat", "dog"))
    assert time.monotonic() - started < 10  # 0.1 s; a minute by counting each among all


def test_image_outside_of_the_folder_is_refused(read, tmp_path):
    (tmp_path.parent / "outside.png").write_bytes(b"")
    for name in ("../outside.png", "c/../../outside.png", str(tmp_path / "a.png")):
        with pytest.raises(InputError, match=r"line 2: .* is not inside"):
            read(f"image,labels\n{name},cat\n")
    assert read("image,labels\nc/../a.png,cat\n").images == (tmp_path / "c/../a.png",)
