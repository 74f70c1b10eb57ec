"""Ctrl-C for child processes: a shell's background jobs ignore it, and their children would inherit that."""

import signal


def heed_interrupts() -> None:
    """Give as `preexec_fn` to a child that is to be interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
