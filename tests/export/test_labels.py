"""Class names from files: every form is read as what it is, or refused in one line."""

import json
from pathlib import Path

import pytest

from levit.errors import ConfigError
from levit.export.labels import read_labels

NAMES = ("brick", "mortar", "tile")


@pytest.fixture
def read(tmp_path):
    """(text, file name) → the names."""

    def from_text(text, name="labels.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_labels(path)

    return from_text


def refusal(read, text, name="labels.txt"):
    with pytest.raises(ConfigError) as caught:
        read(text, name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    "text",
    [
        "brick\nmortar\ntile",
        "brick\nmortar\ntile\n\n",
        "\ufeffbrick\r\n mortar\r\ntile \r\n",
        "0 brick\n1 mortar\n2 tile",
        "2 tile\n0 brick\n1 mortar\n",
        "0: brick\n1: mortar\n2: tile",
        "0 : brick\n1 :mortar\n2:tile",
        "0,brick\n1,mortar\n2,tile",
        "0, brick\n1, mortar\n2, tile",
        "0;brick\n1;mortar\n2;tile",
        "0\tbrick\n1\tmortar\n2\ttile",
        "0) brick\n1) mortar\n2) tile",
        "0. brick\n1. mortar\n2. tile",
        "00 brick\n01 mortar\n02 tile",
        "  0: brick\n  1: mortar\n  2: tile",
        "brick 0\nmortar 1\ntile 2",
        "mortar,1\nbrick,0\ntile,2",
        "brick\t0\nmortar\t1\ntile\t2",
        "brick: 0\nmortar: 1\ntile: 2",
        "n01440764 brick\nn01443537 mortar\nn01484850 tile",
        "n01440764,brick\nn01443537,mortar\nn01484850,tile",
        "0: n01484850 brick\n1: n01440764 mortar\n2: n01443537 tile",
        "0,n01440764,brick\n1,n01443537,mortar\n2,n01484850,tile",
        '["brick", "mortar", "tile"]',
        '\ufeff\n  ["brick", "mortar", "tile"]',
        '{"0": "brick", "1": "mortar", "2": "tile"}',
        '{"2": "tile", "10": "x", "0": "brick"}'.replace('"10": "x"', '"1": "mortar"'),
        '{"brick": 0, "tile": 2, "mortar": 1}',
        '{"id2label": {"0": "brick", "1": "mortar", "2": "tile"}, "model_type": "vit"}',
        '{"label2id": {"brick": 0, "mortar": 1, "tile": 2}}',
        '{"architecture": "levit_128", "label_names": ["brick", "mortar", "tile"]}',
        '{"names": {"0": "brick", "1": "mortar", "2": "tile"}, "nc": 3}',
        '{"classes": ["brick", "mortar", "tile"]}',
    ],
)
def test_every_form_gives_the_names_in_the_order_of_the_classes(read, text):
    assert read(text) == NAMES


def test_a_wordnet_number_before_the_number_of_its_class_is_the_name(read):
    assert read("n01440764 1\nn01443537 0") == ("n01443537", "n01440764")


def test_equal_names_have_fewer_entries_the_other_way(read):
    both = {"id2label": {"0": "crane", "1": "bird", "2": "crane"}}
    both["label2id"] = {"crane": 2, "bird": 1}
    assert read(json.dumps(both)) == ("crane", "bird", "crane")


@pytest.mark.parametrize(
    "names",
    [
        ["tench, Tinca tinca", "goldfish, Carassius auratus"],
        ["crane", "bird", "crane"],
        ["0", "1", "2"],
        ["3", "1", "2"],
        ["3D print", "2D print"],
        ["class 0", "class 1", "class 2"],
        ["grade 1", "grade 2"],
        ["Boeing 737", "Airbus 320"],
        ["n01440764", "n01443537"],
        ["LABEL_0", "LABEL_1"],
        ["100 m hurdles", "sprint"],
        ["Größe", "日本"],
        ["a: b", "c: d"],
        ["none", "grade 0", "grade 1"],
        ['"quoted"', "not"],
        ["yes", "no"],
    ],
    ids=str,
)
def test_names_that_only_look_a_little_like_it_are_names(read, names):
    assert read("\n".join(names)) == tuple(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1 brick\n2 mortar\n3 tile",
            "3 labels are numbered from 0 on, and line 3 has 3, beyond 2",
        ),
        ("0 brick\n0 mortar", "line 2 has 0, twice"),
        (
            "10 mm\n20 mm",
            "line 1 has 10, beyond 1; if the numbers belong to the names, write a JSON",
        ),
        ("brick,1\nmortar,2", "line 2 has 2, beyond 1"),
        (
            "index,name\n0,brick\n1,mortar",
            "line 1 has no number, and the others have: leave it out",
        ),
        ("name,index\nbrick,0\nmortar,1", "line 1 has no number, and the others have: leave it"),
        ("n01443537 goldfish\nn01440764 tench", "line 2 has n01440764 after n01443537"),
        ("brick\n\nmortar", "line 2 is empty"),
        ("", "line 1 is empty"),
        ("brick\nmor\x1btar", r"label 1, 'mor\x1btar', has a control character"),
        ("a\rb", r"label 0, 'a\rb', has a control character"),
        ('["a\\nb"]', r"label 0, 'a\nb', has a control character"),
        ('["a\\u009b"]', "label 0"),
        ("brick\n" + "x" * 2000, "line 2 has over 1,000 characters"),
        ("brick\nGröße\n".encode("latin-1"), "line 2 is not in UTF-8: save it as UTF-8"),
        ("brick\nmortar\n".encode("utf-16"), "UTF-16"),
        ("names:\n  0: brick\n  1: mortar", "look like YAML"),
        ("path: data\nnc: 2\nnames:\n- brick\n- mortar", "look like YAML"),
        ("- brick\n- mortar", "look like YAML"),
        ("names: [brick, mortar]", "look like YAML"),
        ("item {\n  id: 1\n}", "label map of TensorFlow"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "run git lfs pull"),
        ('<?xml version="1.0"?>\n<a/>', "XML"),
        ('"brick"\n"mortar"', "in quotes"),
        ("0: 'brick'\n1: 'mortar'", "in quotes"),
        ("{0: 'tench, Tinca tinca',\n 1: 'goldfish'}", "begins as JSON and cannot be read"),
        ("[brick]", "begins as JSON and cannot be read"),
        ("[" * 100_000, "cannot be read as such"),
        ('{"0": "brick", "0": "mortar"}', "'0' stands twice in one object"),
        ('{"0": "brick", "2": "mortar"}', "entry 2 has 2, beyond 1"),
        ('{"brick": 0, "mortar": 0}', "entry 2 has 0, twice"),
        ('{"brick": -1}', "no labels"),
        ('{"brick": true}', "no labels"),
        ('{"0": ["n01440764", "tench"]}', "no labels"),
        ('[{"id": 0, "name": "brick"}]', "no labels"),
        ('["brick", 1]', "no labels"),
        ("{}", "no labels"),
        ('{"id2label": {"0": "a", "5": "b"}}', "entry 2 has 5, beyond 1"),
        (
            '{"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}',
            "id2label and label2id hold other names",
        ),
        ('{"names": {"names": {"names": ["brick"]}}}', "no labels"),
    ],
)
def test_everything_else_is_refused_in_one_line(read, text, message):
    assert message in refusal(read, text)


@pytest.mark.parametrize("text", ["brick\nmortar", "3", '"brick"', "null", "[1"])
def test_a_json_file_is_never_read_by_lines(read, text):
    refusal(read, text, "id2label.json")


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(ConfigError, match="labels cannot be read"):
            read_labels(path)
    large = tmp_path / "large.txt"
    large.write_bytes(b"a\n" * (9 * 2**20))
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        read_labels(large)


def test_the_names_of_imagenet_in_every_form(read):
    names = Path(read_labels.__code__.co_filename).parents[1] / "data" / "imagenet_1k.txt"
    expected = read_labels(names)
    assert len(expected) == 1000
    assert read(json.dumps(expected), "a.json") == expected
    assert read(json.dumps(dict(enumerate(expected)))) == expected
    assert read("\n".join(f"{i}: {name}" for i, name in enumerate(expected))) == expected


@pytest.mark.peers
def test_a_class_map_is_what_timm_makes_of_it(tmp_path):
    from timm.data.readers.class_map import load_class_map

    path = tmp_path / "class_map.txt"
    path.write_text("tench\ngoldfish, Carassius auratus\nn01484850\n")
    ours = {name: index for index, name in enumerate(read_labels(path))}
    assert ours == load_class_map(str(path))


@pytest.mark.peers
def test_a_config_of_transformers_is_a_file_of_labels(tmp_path):
    from transformers import ViTConfig

    config = ViTConfig(
        id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)}
    )
    config.save_pretrained(tmp_path)
    assert read_labels(tmp_path / "config.json") == NAMES
