import io
import json
import sys

import pytest
import time_pictures
from PIL import Image


def test_photos_have_their_size_and_differ():
    found = time_pictures.photos(None, 3, (100, 75), 90)
    assert len(set(found)) == 3
    for data in found:
        with Image.open(io.BytesIO(data)) as photo:
            assert (photo.format, photo.size) == ("JPEG", (100, 75))


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["throughput", "--images", "16", "--workers", "1"], "over slower stage"),
        (["latency"], "predictor.predict([image])"),
        (["draft", "--images", "1"], "times as fast"),
        (["memory", "--calls", "8", "--largest", "3"], "levit_digits predict: 8: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_measurement_runs(monkeypatch, capsys, tmp_path, words, printed):
    few = [] if words[0] == "memory" else ["--rounds", "2"]
    arguments = [*words, *few, "--models", "levit_digits"]
    monkeypatch.setattr(sys, "argv", ["time_pictures", "--json", str(tmp_path / "raw"), *arguments])
    time_pictures.main()
    assert printed in capsys.readouterr().out
    assert json.loads((tmp_path / "raw").read_text())
