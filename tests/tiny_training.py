"""What the tests of training share: options that train a tiny model in a second, and a look at weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file

OPTIONS = {"batch_size": 8, "epochs": 3, "learning_rate": 3e-3, "dev_fraction": 0.25, "show_progress_bar": False}


def assert_same_weights(one, other, **tolerance):
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], **tolerance), name
