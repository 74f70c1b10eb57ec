import pytest
import torch

from stages.network.heads.serialization import save_tensors
from stages.runtime.tensor_files import load_tensors


@pytest.mark.parametrize("name", ["tensors", "t\udcfcnsors"])
def test_tensors_come_back_from_a_folder_of_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    save_tensors(tmp_path / name / "x.safetensors", {"a": torch.arange(3)})
    assert load_tensors(tmp_path / name / "x.safetensors")["a"].tolist() == [0, 1, 2]


def test_a_file_that_is_not_there_is_that_and_nothing_else(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "t\udcfcnsors.safetensors")
