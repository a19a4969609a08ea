import pytest
from safetensors.numpy import save_file

from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES


@pytest.fixture(scope="session")
def full_size(seed, tmp_path_factory):
    """(name) → a checkpoint of a LeViT at full size, drawn once: that is half of an export."""
    folder = tmp_path_factory.mktemp("full_size")
    family = FAMILIES["levit"]

    def make(name):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = random_model(family, family.variants[name].config, seed)
            save_file(flatten(model, family.keymaps[0]), path)
        return path

    return make
