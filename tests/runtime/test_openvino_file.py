import json
import re
import shutil

import numpy as np
import pytest

from levit.artifact import open_artifact
from levit.errors import CorruptArtifactError
from levit.runtime.openvino_file import check_openvino_file


@pytest.fixture(scope="session")
def source(make_artifact):
    return make_artifact("openvino-fp32", target="openvino", precision="fp32")


@pytest.fixture
def changed(tampered, source):
    """(pattern, replacement) → an artifact whose IR was changed in one place."""

    def make(pattern, replacement):
        def change(folder, values):
            text = (folder / "model.xml").read_text()
            new, count = re.subn(pattern, replacement, text, count=1)
            assert count == 1
            (folder / "model.xml").write_text(new)

        return open_artifact(tampered(change, source=source))

    return make


@pytest.fixture(scope="session")
def make_transformer_ir(make_artifact, tmp_path_factory):
    """() → an IR with tokens in front of those of the picture."""

    def make():
        config = tmp_path_factory.mktemp("config") / "config.json"
        values = dict(architecture="deit_small", img_size=[32, 32], embed_dim=48,
                      depth=1, num_heads=3, num_classes=4)  # fmt: skip
        config.write_text(json.dumps(values))
        return make_artifact(
            "openvino-deit", model=None, random_weights=3, config=config, target="openvino"
        )

    return make


def test_what_levit_writes_is_let_through(source):
    check_openvino_file(open_artifact(source))


@pytest.mark.parametrize("options", [{"input": "uint8"}, {"batch": 2}, {"precision": "bf16"}])
def test_every_form_is_let_through(make_artifact, options):
    name = "openvino-" + "-".join(f"{key}{value}" for key, value in options.items())
    folder = make_artifact(name, target="openvino", verify="none", **options)
    check_openvino_file(open_artifact(folder))


# (pattern, replacement, pattern of the refusal)
CHANGES = [
    # Operations.
    ('type="MatMul" version="opset1"', 'type="Loop" version="opset5"', "operation 'Loop'"),
    ('type="MatMul"', 'type="TensorIterator"', "operation 'TensorIterator'"),
    ('type="MatMul"', 'type="Einsum"', "operation 'Einsum' .* none that levit writes"),
    ('type="HSwish" version="opset4"', 'type="NonZero" version="opset3"', "operation 'NonZero'"),
    ('type="Add" version="opset1"', 'type="Add" version="extension"', "of 'extension'"),
    ('type="Add" version="opset1"', 'type="Mod" version="opset1"', "operation 'Mod'"),
    ('type="SoftMax" version="opset8"', 'type="SoftMax" version="opset1"', "of 'opset1'"),
    ('type="Result"', 'type="Assign"', "no output"),
    # Attributes.
    ('axis="-1"', 'axis="7"', "has axis '7'"),
    ('axis="-1"', 'axis="' + "9" * 5000 + '"', "has attributes 'axis=\"999"),
    ('axis="-1"', 'axis="-1" axis="-1"', "has attributes"),
    ('axis="-1"', 'axis="-1" more="1"', "has more '1'"),
    ('strides="2, 2"', 'strides="0, 0"', "has kernel"),
    ('strides="2, 2"', 'strides="2, ' + "2" * 5000 + '"', "has attributes"),
    ('pads_begin="1, 1"', 'pads_begin="9999, 9999"', "pads"),
    ('pads_end="1, 1"', 'pads_end="0, 0"', "pads"),
    ('dilations="1, 1"', 'dilations="99, 99"', "has dilations"),
    ('auto_pad="explicit"', 'auto_pad="same_upper"', "has auto_pad"),
    ('auto_broadcast="numpy"', 'auto_broadcast="none"', "has auto_broadcast"),
    ('transpose_a="false"', 'transpose_a="true"', "has transpose_a"),
    ('special_zero="true"', 'special_zero="false"', "has special_zero"),
    ('keep_dims="false"', 'keep_dims="true"', "averages"),
    # Types and sizes.
    ('element_type="f32" shape="(?=\\d)', 'element_type="string" shape="', "is of type 'string'"),
    ('element_type="f32" shape="(?=\\d)', 'element_type="u1" shape="', "is of type 'u1'"),
    ('element_type="f32" shape="(?=\\d)', 'element_type="f64" shape="', "is of type 'f64'"),
    ('shape="\\?,3', 'shape="?,4', "does not state"),
    ('shape="\\?,3', 'shape="?,?', "is no image"),
    ('shape="\\?,3,96,96"', 'shape="..."', "is no image"),
    ('shape="\\?,3', 'shape="-1,3', "is no image"),
    ('element_type="f32" />', 'element_type="i64" />', "is no image"),
    ("<dim>48</dim>", "<dim>49</dim>", "reads another|does not state"),
    ("<dim>96</dim>", "<dim>" + "9" * 5000 + "</dim>", "element 'layer' 'image'"),
    ("<dim>96</dim>", "<dim>0x60</dim>", "element 'layer'"),
    ('precision="FP32"', 'precision="I32"', "does not state"),
    # Places in model.bin.
    ('offset="\\d+" size="(\\d+)"', r'offset="99999999999" size="\1"', "outside"),
    ('offset="\\d+" size="(\\d+)"', r'offset="-8" size="\1"', "is stored as"),
    ('offset="\\d+" size="\\d+"', 'offset="0" size="x"', "is stored as"),
    ('offset="\\d+" size="\\d+"', 'offset="0" size="' + "9" * 5000 + '"', "is stored as"),
    ('offset="\\d+" size="\\d+"', 'offset="0" size="4"', "has 4 bytes for"),
    # Edges.
    (
        '<edge from-layer="0" from-port="0"',
        '<edge from-layer="390" from-port="0"',
        "before it|reads nothing",
    ),
    ('<edge from-layer="0" from-port="0"', '<edge from-layer="0" from-port="1"', "another value"),
    ('(<edge from-layer="1" [^>]*>)', r"\1\1", "two edges"),
    ('(<edge from-layer="1" [^>]*>)', "", "reads nothing"),
    ('(<edge from-layer="1" from-port="0") to-layer="\\d+"', r'\1 to-layer="1"', "reads nothing"),
    ('<layer id="2"', '<layer id="1"', "two layers of one number"),
    ('<layer id="2"', '<layer id="-2"', "element 'layer'"),
    # Text.
    ('<net name="[^"]*"', r"<body><x/></body>\g<0>", "near byte 0"),
    ('<net name="[^"]*"', '<net name="a b"', "near byte 0"),
    ("<layers>", "<layers><body/>", "element 'body'"),
    ("<layers>", "<layers/><layers>", "element|near byte"),
    ("</layers>", "</layers><layers></layers>", "element"),
    ("</edges>", "</edges><edges></edges>", "element '/edges'"),
    ("<layers>", "<layers><!-- a -->", "has comments"),
    ("<layers>", "<layers><![CDATA[a]]>", "has comments"),
    ("<layers>", "<layers><?x y?>", "element '\\?x"),
    (
        r"<\?xml version=\"1.0\"\?>",
        '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]>',
        "declares entities",
    ),
    (r"<\?xml version=\"1.0\"\?>", '<?xml version="1.0" encoding="UTF-7"?>', "near byte 0"),
    (' name="image"', ' name="&#x1b;[2J"', "element 'layer'"),
    (' name="image"', ' name="\x9b\u202e"', "element 'layer'"),
    (' name="image"', ' name="' + "a" * 5000 + '"', "element 'layer'"),
    ("<edges>", "<layers>" * 99 + "</layers>" * 99 + "<edges>", "element '/layers'"),
    ("<levit>", "<a>" * 99 + "</a>" * 99 + "<levit>", "16 deep"),
    ("<levit>", "<rt_info></rt_info><levit>", "rt_info within another"),
    ("</levit>", "</other>", "'other' is not open"),
    ("<levit>", "<a/>" * 2000 + "<levit>", "over 1000 texts"),
    ("</net>", "", "after its end"),
    ("</net>", "</net><net></net>", "after its end"),
    ("<edges>", "<edges", "element '/layers'"),
]


@pytest.mark.parametrize(("pattern", "replacement", "said"), CHANGES)
def test_anything_else_is_not(changed, pattern, replacement, said):
    with pytest.raises(CorruptArtifactError, match=f"not an IR that levit has written.*({said})"):
        check_openvino_file(changed(pattern, replacement))


def test_contents_that_have_been_read(source, tmp_path):
    """Of bytes and views; what lies on the disk since is not looked at."""
    folder = shutil.copytree(source, tmp_path / "a")
    artifact = open_artifact(folder)
    text, weights = ((folder / name).read_bytes() for name in ("model.xml", "model.bin"))
    (folder / "model.xml").write_bytes(b"")
    (folder / "model.bin").write_bytes(b"")
    check_openvino_file(artifact, text, weights)
    check_openvino_file(artifact, memoryview(text), memoryview(weights))
    with pytest.raises(CorruptArtifactError, match="outside of their file"):
        check_openvino_file(artifact, text, weights[:-64])
    with pytest.raises(CorruptArtifactError, match="near byte 0"):
        check_openvino_file(artifact, b"", weights)


def _integers(folder, kind, place):
    """(offset, count) of the integers that the first `kind` reads at `place`."""
    text = (folder / "model.xml").read_text()
    layer = re.search(rf'<layer id="(\d+)" name="[^"]*" type="{kind}"', text)[1]
    edge = rf'<edge from-layer="(\d+)" from-port="0" to-layer="{layer}" to-port="{place}" />'
    constant = re.search(edge, text)[1]
    data = rf'<layer id="{constant}" name="[^"]*" type="Const".*?offset="(\d+)" size="(\d+)"'
    offset, size = re.search(data, text, re.DOTALL).groups()
    return int(offset), int(size) // 8


@pytest.mark.parametrize(
    ("kind", "place", "values", "said"),
    [
        ("Reshape", 1, (0, -1, -1), "reshapes"),
        ("Reshape", 1, (0, 10**9, 10**9), "reshapes"),
        ("Reshape", 1, (-(2**63), 0, 0), "integers"),
        ("Transpose", 1, (3, 2, 1, 0), "permutes"),
        ("Transpose", 1, (0, 0, 0, 0), "permutes"),
        ("Transpose", 1, (0, 2, 1, 2**62), "integers"),
        ("ReduceMean", 1, (-9,), "integers"),
        ("Slice", 1, (-1, -1), "takes"),
        ("Slice", 3, (0, 0), "takes"),
        ("Slice", 4, (1, 1), "takes"),
    ],
)
def test_integers_in_the_weights(tampered, source, kind, place, values, said):
    def change(folder, manifest):
        offset, count = _integers(folder, kind, place)
        data = bytearray((folder / "model.bin").read_bytes())
        stored = (values * count)[:count]
        data[offset : offset + 8 * count] = np.array(stored, np.int64).tobytes()
        (folder / "model.bin").write_bytes(data)

    with pytest.raises(CorruptArtifactError, match=f"that levit has written.*({said})"):
        check_openvino_file(open_artifact(tampered(change, source=source)))


def test_padding_by_a_billion(make_transformer_ir, tampered):
    source = make_transformer_ir()

    def change(folder, manifest):
        offset, count = _integers(folder, "Pad", 1)
        assert count == 3
        data = bytearray((folder / "model.bin").read_bytes())
        data[offset : offset + 24] = np.array([0, 10**9, 0], np.int64).tobytes()
        (folder / "model.bin").write_bytes(data)

    check_openvino_file(open_artifact(source))
    with pytest.raises(CorruptArtifactError, match=r"operation 'Pad' .* needs more than|not state"):
        check_openvino_file(open_artifact(tampered(change, source=source)))


def test_a_quotient_of_integers(changed):
    """The least int64 by -1 is no number: a processor stops the process that divides so."""
    convolution = 'type="HSwish" version="opset4">'
    division = 'type="Divide" version="opset1"><data auto_broadcast="numpy" m_pythondiv="true" />'
    with pytest.raises(CorruptArtifactError, match=r"operation 'Divide' .* has 1 inputs"):
        check_openvino_file(changed(convolution, division))


def test_weights_that_no_hash_covers(tampered, source, tmp_path):
    folder = tampered(lambda folder, values: None, source=source)
    artifact = open_artifact(folder)
    del artifact.manifest.files["model.bin"]
    with pytest.raises(CorruptArtifactError, match=r"lists no model\.bin"):
        check_openvino_file(artifact)
