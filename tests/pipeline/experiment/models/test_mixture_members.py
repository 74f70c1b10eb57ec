"""A mixture's folder holds its members' models and says who they are."""

import pytest

from cache.errors import DataError
from pipeline.experiment.models.mixture_members import Member, model_of_member, read_members, save_members
from tests.saved_methods import make_images, saved_method


def test_members_come_back_in_order_with_models_of_their_own(tmp_path):
    images = make_images(tmp_path / "images", 2)
    models = [saved_method(tmp_path / kind, "resnet18", kind, images, 32) for kind in ("linear", "tuned")]
    members = [Member(model.name, 0.5, 0.01, "resnet18", None, 32) for model in models]
    save_members(tmp_path / "mean", members, models)
    assert read_members(tmp_path / "mean") == members
    for number, model in enumerate(models):
        copied = model_of_member(tmp_path / "mean", number)
        names = {path.name for path in copied.iterdir()}
        assert names >= {"model.json", "head.json", "head.safetensors"}
        assert ("top.safetensors" in names) == (number == 1)
        assert all((copied / name).samefile(model / name) for name in names)  # no byte is written twice
    save_members(tmp_path / "mean", members[:1], models[:1])  # made again with fewer: none is left over
    assert not model_of_member(tmp_path / "mean", 1).exists()


def test_a_method_that_is_no_mixture_has_none_and_a_damaged_list_is_said(tmp_path):
    assert read_members(tmp_path) == []
    (tmp_path / "members.json").write_text('[{"path": "a"}]')
    with pytest.raises(DataError, match=r"is damaged .*; make this ensemble again"):
        read_members(tmp_path)
