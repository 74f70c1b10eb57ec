"""Option dataclasses as flags, TOML and command lines."""
