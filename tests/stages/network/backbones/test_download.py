"""Where downloaded weights lie; what is said of those that cannot be fetched is held by the tests of the registry."""

import torch

from stages.network.backbones.download import is_downloaded


def test_a_file_is_downloaded_where_torch_hub_would_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert not is_downloaded("https://example.org/models/net-1a2b.pth?download=true")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "net-1a2b.pth").touch()
    assert is_downloaded("https://example.org/models/net-1a2b.pth?download=true")
