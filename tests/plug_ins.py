"""Packages that bring plug-ins, as pip would have installed them."""

from pathlib import Path

import pytest

from cache.registry import Registry


def install_plug_in(site: Path, package: str, group: str, name: str, source: str) -> None:
    """Write a module and the metadata by which its entry point is found into a folder of ``sys.path``."""
    site.mkdir(parents=True, exist_ok=True)
    module = package.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


def forget_afterwards(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    """Let what a test registers be gone after it."""
    registry.own_things()  # a module that is imported in the test does not register again after it
    for name in ("_registered", "_things", "_origins"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_all_things", None)
