"""Whose checkpoint it is. Wrappers of every source are in ``export/test_sources.py``."""

import numpy as np
import pytest

from levit.errors import CheckpointError
from levit.models.checkpoint import Checkpoint
from levit.models.random_weights import flatten
from levit.models.recognition import recognise


class Counted(dict):
    """A dict that counts how often somebody goes through it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()

    def items(self):
        self.walks += 1
        return super().items()


def checkpoint(tensors):
    return Checkpoint(tensors=tensors, origin={"file": "m.pth"})


@pytest.fixture(scope="module")
def tensors(make_small):
    model = make_small("tiny")
    return flatten(model, model.family.keymaps[0])


def test_a_student_and_its_teacher_are_two_models(tensors):
    both = {f"{who}.{n}": t for who in ("student", "teacher") for n, t in tensors.items()}
    with pytest.raises(
        CheckpointError, match=r"a LeViT of timm under 'student\.' beside"
    ) as caught:
        recognise(checkpoint(both))
    assert f"{len(tensors)} other tensors (teacher.stem" in str(caught.value)


def test_a_prefix_may_itself_end_like_another(tensors):
    nested = {f"a.a.{n}": t for n, t in tensors.items()}
    found, _, keymap = recognise(checkpoint(nested))
    assert found.tensors.keys() == tensors.keys()
    assert (keymap.source, found.origin["prefix"]) == ("timm", "a.a.")


def test_the_work_does_not_grow_with_the_square_of_the_names():
    walks = []
    for count in (50, 500):
        stem = np.zeros((1, 3, 3, 3), np.float32)
        many = Counted({f"{i}.stem.conv1.linear.weight": stem for i in range(count)})
        with pytest.raises(CheckpointError, match="not a checkpoint that this release knows"):
            recognise(checkpoint(many))
        walks.append(many.walks)
    assert walks[0] == walks[1]
