"""Options as plain dataclasses: what a user can choose, and its bounds. No torch, so that help is quick."""
