"""The command line: ``python -m pipeline COMMAND``, installed as ``cutonce`` too.

Flags, types, help and their errors are made by cyclopts from the option dataclasses. This module adds the TOML file,
the exit codes (0 done, 1 failed, 2 wrong usage) and one line instead of a traceback for what a user can mend.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token

from cache.errors import CutonceError, UsageError
from cache.kept import forget_kept, kept_words
from pipeline.cli import COMMANDS, command_function
from pipeline.cli.arguments import error_panel, refuse_old_names, require_whole_numbers, with_lists
from pipeline.cli.cache import app as cache_app
from pipeline.cli.help import EPILOGUE, HELP_ALL, all_options_shown
from pipeline.cli.output import messages_printed, say_begun
from pipeline.options.flags_in_text import as_flags
from pipeline.options.toml_file import OPTION_GROUPS, check_configuration, read_configuration
from stages.config.lists import join_items, joined_options, list_options, split_items
from stages.runtime.allocator import share_one_arena
from stages.runtime.openmp import configure_openmp
from stages.runtime.progress import json_log, progress_bars
from stages.runtime.provenance import command_named
from stages.runtime.unicode_text import printable


def _written(default: Any) -> str | None:
    """Return a default as it is written on the command line; None or nothing, said in words by the option, is not."""
    if default is None or default == ():
        return None
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


app = App(
    name="cutonce",
    version=lambda: version("cutonce"),
    help="""Feature-caching transfer learning: cut once, train many.

    Start with `run`, which does everything. A pretrained network is *cut* at a layer; the part below, the *trunk*, is
    frozen and runs once over the images, and what it gives at the cut, their features, is cached. *Heads*, small models
    from features to classes, are trained on them; then the top blocks are fine-tuned on augmented *views* of the
    images, and a page compares all of it on the same test images.
    """,
    help_epilogue=EPILOGUE,
    help_format="markdown",
    result_action="return_value",
    error_formatter=error_panel,
    default_parameter=Parameter(show_default=_written),
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
for _number, _command in enumerate(COMMANDS):
    app.command(command_function(_command), name=_command, sort_key=_number)
app.command(cache_app)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="TOML file of options, named as the flags; flags win.")] = None,
    log_json: Annotated[Path | None, Parameter(help="File to which what happens is appended, as JSON lines.")] = None,
) -> Any:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and tokens[:1] not in (("extract",), ("finetune",)):
        raise UsageError(
            "torchrun starts several processes, and of all commands only `extract` and `finetune` share their work"
        )
    if HELP_ALL in tokens:
        with all_options_shown():
            return app.meta(["--help" if token == HELP_ALL else token for token in tokens])
    refuse_old_names(tokens)
    if config is not None:
        check_configuration(config)
    app.config = (*([] if config is None else [options_from(config)]), require_whole_numbers)
    try:
        with json_log(log_json):
            # a hyphen alone is standard input and no option, which as a path it is told from
            given = with_lists(["./-" if token == "-" else token for token in tokens])
            command, bound, _ = app.parse_args(given, exit_on_error=False, print_error=True)
            if given[:1] and given[0] in COMMANDS and command is command_function(given[0]):
                say_begun(given[0], bound.arguments)
            return command(*bound.args, **bound.kwargs)
    finally:
        app.config = ()  # the file is this command's alone, and not that of a next one in the same process


def options_from(config: Path) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """Return what gives a command's options the values of a TOML file, where there is no flag.

    cyclopts' own reader of TOML passes over every name that is a command's too, as ``cache`` is.
    """
    return lambda app, commands, arguments: _fill_in(arguments, read_configuration(config), f"file {config}")


def _fill_in(arguments: ArgumentCollection, values: dict[str, Any], source: str) -> None:
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        try:
            argument, keys, _ = arguments.match(flag)
        except ValueError:  # an option of other commands
            continue
        if argument.tokens:
            continue
        for index, item in enumerate(_values(name, value)):
            token = Token(keyword=flag, value=str(item), source=source, index=index, keys=keys)
            argument.append(token.evolve(value="", implicit_value=item) if isinstance(item, bool) else token)


def _values(name: str, value: Any) -> list[Any]:
    """Return what a value of the file is as values of a flag: of one string in which several are named, one."""
    if any(name in joined_options(group) for group in OPTION_GROUPS):
        return [join_items(value)]
    if isinstance(value, str) and any(name in list_options(group) for group in OPTION_GROUPS):
        return split_items(value)
    return value if isinstance(value, list) else [value]


def _leave_objects_to_the_end() -> None:
    """Let nobody look through all objects once more before the process ends, which frees them in any case.

    Where triton is loaded somebody has to: what is left of it, from version 3.9 on, is printed as leaked.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def _left_behind() -> str:
    """Say what a command that was stopped has put on disk, of what it finished itself."""
    if words := kept_words():
        return f". {words} are kept; the same command goes on from there."
    return " before anything was finished: the same command begins where this one did."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    # a million objects of the libraries live as long as the process: looking through them for garbage again and again
    # while they are imported, and once more at the end, takes a third of the time of a short command
    gc.set_threshold(50_000)
    atexit.register(_leave_objects_to_the_end)
    # torchrun and batch systems say so when they want a process to end: rows in memory still reach the disk
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_openmp()
    share_one_arena()
    # what Apple's GPU has no operator for is computed on the processor, instead of ending the command
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    # figures are files: a backend that a notebook's kernel exports, and that may not be there, is not asked
    os.environ["MPLBACKEND"] = "agg"
    # a terminal of ASCII, as LC_ALL=C makes one, shows what it lacks in escaped form
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    forget_kept()
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        with messages_printed(), progress_bars(sys.stderr.isatty(), lines=True), command_named(given):
            app.meta(given, result_action="return_value", exit_on_error=False, print_error=True)
    except CycloptsError as error:  # which is printed; before its version 5 cyclopts itself ends with 1
        raise SystemExit(UsageError.exit_code) from error
    except CutonceError as error:
        print(f"error: {printable(as_flags(str(error)))}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nstopped{_left_behind()}", file=sys.stderr)  # noqa: T201
        return 1
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        file_text = f": {error.filename}" if error.filename else ""
        print(f"error: {printable(f'{error.strerror or error}{file_text}')}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
