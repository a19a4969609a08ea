import re

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


def test_what_levit_writes_is_let_through(source):
    check_openvino_file(open_artifact(source))


@pytest.mark.parametrize("options", [{"input": "uint8"}, {"batch": 2}, {"precision": "bf16"}])
def test_every_form_is_let_through(make_artifact, options):
    name = "openvino-" + "-".join(f"{key}{value}" for key, value in options.items())
    folder = make_artifact(name, target="openvino", verify="none", **options)
    check_openvino_file(open_artifact(folder))


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        ('type="MatMul" version="opset1"', 'type="Loop" version="opset5"', "operation 'Loop'"),
        ('type="Add" version="opset1"', 'type="Add" version="extension"', "of 'extension'"),
        ('type="MatMul"', 'type="TensorIterator"', "operation 'TensorIterator'"),
        (r'<net name="[^"]*"', r"<body><x/></body>\g<0>", "element 'body'|no element|not well"),
        ("<layers>", "<layers><body/>", "element 'body'"),
        (r"<\?xml version=\"1.0\"\?>", '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]>',
         "declares entities"),
        (r'offset="\d+" size="(\d+)"', r'offset="99999999999" size="\1"', "outside"),
        (r'offset="\d+" size="(\d+)"', r'offset="-8" size="\1"', "outside"),
        (r'offset="\d+" size="\d+"', 'offset="0" size="x"', "invalid literal"),
        ("<edges>", "<layers>" * 99 + "</layers>" * 99 + "<edges>", "16 deep"),
        ("<levit>", "<a>" * 99 + "</a>" * 99 + "<levit>", "16 deep"),
        ("</net>", "", "no element found"),
        ("<edges>", "<edges", "not well-formed"),
    ],
)  # fmt: skip
def test_anything_else_is_not(changed, pattern, replacement, said):
    with pytest.raises(CorruptArtifactError, match=f"not an IR that levit has written.*({said})"):
        check_openvino_file(changed(pattern, replacement))


def test_weights_that_no_hash_covers(tampered, source, tmp_path):
    folder = tampered(lambda folder, values: None, source=source)
    artifact = open_artifact(folder)
    del artifact.manifest.files["model.bin"]
    with pytest.raises(CorruptArtifactError, match=r"lists no model\.bin"):
        check_openvino_file(artifact)
