"""Packages that bring plug-ins, as pip would have installed them."""

from pathlib import Path


def install_plug_in(site: Path, package: str, group: str, name: str, source: str) -> None:
    """Write a module and the metadata by which its entry point is found into a folder of ``sys.path``."""
    site.mkdir(parents=True, exist_ok=True)
    module = package.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
