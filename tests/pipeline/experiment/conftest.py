"""What tests of experiments take from those of the stages."""

from tests.stages.conftest import pairs, probe  # noqa: F401 (fixtures)
