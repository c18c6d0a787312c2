"""The command line: `cait-viz`, or `python -m cait_viz`.

A command's module is imported when the command is run, and TensorFlow, which takes seconds to start, only
after everything that can be refused without it has been refused.
"""

import contextlib
import logging
import os
import shlex
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
)
from cyclopts.help.formatters.plain import PlainFormatter

from cait_viz._backend import INTERRUPTED
from cait_viz._text import one_line
from cait_viz._version import __version__
from cait_viz.errors import CaitVizError, SelectionError, UnknownModelError, UsageError

_FAILED, _WRONG_USAGE = 1, 2

# Set to anything, an error of the program itself is shown with its traceback.
_TRACEBACK_SETTING = "CAIT_VIZ_TRACEBACK"
# An error lists every tensor that does not fit; a line longer than this is of no use.
_LONGEST_LINE = 20_000

# Each command, where its function is, and what it does; `cait-viz COMMAND --help` shows the docstring.
_COMMANDS = {
    "predict": ("images:predict", "Name what an image shows."),
    "render": ("images:render", "Draw where one head looked, over the image."),
    "figure": ("images:figure", "Draw Figure 6 or Figure 7 of the paper for images of your own."),
    "trace": ("images:trace", "Draw what happened before the class token, block by block."),
    "patch": ("images:patch", "Draw where one patch looks in a self-attention block, or who looks at it."),
    "explain": ("images:explain", "Draw what speaks for one class, by the gradients of its logit."),
    "compare": ("comparison:compare", "Draw two maps side by side."),
    "ablate": ("images:ablate", "Draw what a class loses without each class-attention head."),
    "attention": ("images:attention", "Write the attention tensors of an image to a NumPy archive."),
    "batch": ("batch:batch", "Classify many images, and write what each head looked at."),
    "models": ("models:models", "List the models, their size and accuracy, and which are on this machine."),
    "cache": ("models:cache", "Show or clear the caches of exported networks and of converted checkpoints."),
    "fetch": ("models:fetch", "Download the weights of models."),
    "finetune": ("train:finetune", "Train a pretrained CaiT on labeled images of your own."),
    "distil": ("train:distil", "Train a CaiT to give the answers of a teacher."),
    "evaluate": ("models:evaluate", "Measure a model's accuracy on folders of labeled images."),
    "randomize": (
        "images:randomize",
        "Print how much each map changes when the network forgets what it learned.",
    ),
    "trust": ("models:trust", "Measure on many images what maps are worth."),
    "export": ("models:export", "Write a model in a format that other programs read."),
    "app": ("app:app", "Serve the web app."),
}
_DESCRIPTION = """See where a CaiT vision transformer looks: class-attention maps of any image.

Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and the
figures count them from 1, as the paper does. `cait-viz COMMAND --help` shows the options of a command."""


def entry() -> NoReturn:
    """What the console script `cait-viz` calls: `main` on the arguments of the process."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: the next file that is opened would get its number
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
        elif name == "stdin":  # names of files need not be text
            stream.reconfigure(errors="surrogateescape")
        else:  # a terminal that knows only ASCII shows escapes for the rest
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is one line on standard error.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        0 when done; 1 when a given file, download, checkpoint or output cannot be used; 2 for wrong usage,
        an unknown model or a block or head that is not there; 130 when interrupted.
    """
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a failure can be reported, and not by the interpreter at its end
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        _abandon_output()
    except (UsageError, UnknownModelError, SelectionError) as error:
        complain(error)
        return _WRONG_USAGE
    except CaitVizError as error:
        complain(error)
    except Exception as error:
        complain(_unforeseen(error))
    return _FAILED


def complain(error: object) -> None:
    """Print an error as one line on standard error."""
    print(f"cait-viz: {one_line(str(error), _LONGEST_LINE)}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words:
        raise UsageError("a COMMAND is missing; see cait-viz --help")
    line, after = shlex.join(["cait-viz", *words]), []
    if words[0] == "app" and "--" in words:  # what comes after is Streamlit's
        place = words.index("--")
        words, after = words[:place], words[place + 1 :]
    try:
        command, bound, ignored = application(words[0]).parse_args(words)
    except CycloptsError as error:
        error.verbose = False
        raise UsageError(_see_help(error, error.command_chain or ())) from None
    except ValueError as error:  # what a dataclass of options refuses
        raise UsageError(_see_help(error, words[:1])) from None
    # No option fills these parameters: the card of a training says how it was started.
    known = {"command_line": line, "streamlit_options": after}
    given = {name: value for name, value in known.items() if name in ignored}
    with contextlib.nullcontext() if words[0] == "app" else _silence():
        return command(*bound.args, **bound.kwargs, **given) or 0


def _see_help(error: Exception, command: Sequence[str]) -> str:
    problem = str(error)
    if isinstance(error, UnusedCliTokensError):
        problem = f"unexpected argument {' '.join(error.unused_tokens or ())}"
    if isinstance(error, MissingArgumentError) and error.argument and not error.keyword:
        problem = f"{error.argument.name} is missing"
    if isinstance(error, CoercionError) and error.token and not error.msg:
        kinds = (error.target_type, *get_args(error.target_type))
        if int in kinds:
            wanted = ["a whole number", *(name for kind in kinds[1:] for name in get_args(kind))]
            problem = f"{error.token.keyword}: {error.token.value} is not {' or '.join(wanted)}"
    if not problem.endswith("..."):  # of a list
        problem = problem.removesuffix(".")
    return f"{problem}; see {' '.join(['cait-viz', *command])} --help"


def _refuse_fractions(_: Any, __: Any, arguments: ArgumentCollection) -> None:
    """Refuse a fraction where a whole number is wanted; cyclopts would round it."""
    for argument in arguments:
        kinds = (argument.hint, *get_args(argument.hint))
        for token in argument.tokens if int in kinds and float not in kinds else ():
            if "." in token.value:
                raise UsageError(f"{argument.name}: {token.value} is not a whole number")


def application(chosen: str | None) -> App:
    """The commands; the chosen one alone is imported, and so shows its own docstring as its help.

    Of None all of them are.
    """
    app = App(
        name="cait-viz",
        version=f"cait-viz {__version__}",
        help=_DESCRIPTION,
        help_format="plaintext",
        help_formatter=_PlainHelp(),
        default_parameter=Parameter(negative=()),
        config=_refuse_fractions,
        exit_on_error=False,
        print_error=False,
    )
    for name, (function, summary) in _COMMANDS.items():
        app.command(f"cait_viz.cli.{function}", name=name, help=None if chosen in (name, None) else summary)
    return app


class _PlainHelp(PlainFormatter):
    """Help as plain text, its paragraphs filled to the width of the terminal."""

    def _print_plain(self, console: Any, text: str) -> None:
        indent = " " * (len(text) - len(text.lstrip()))
        wrapper = textwrap.TextWrapper(console.width, indent, 2 * indent, break_on_hyphens=False)
        paragraphs = [wrapper.fill(" ".join(paragraph.split())) for paragraph in text.split("\n\n")]
        console.print("\n\n".join(paragraphs), highlight=False, markup=False, soft_wrap=True)


def _unforeseen(error: Exception) -> str:
    """The sentence for an error that no other module has foreseen."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose a smaller model or image"
    if isinstance(error, OSError):
        _abandon_output()
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}the system refuses to read or write ({error.strerror or error})"
    if os.environ.get(_TRACEBACK_SETTING):
        traceback.print_exc()
    problem = f"an error of the program itself ({type(error).__name__}: {error})"
    return f"{problem}; please report it, with what {_TRACEBACK_SETTING}=1 shows"


def _abandon_output() -> None:
    """Keep the interpreter from trying to write at its end what could not be written, and complaining."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the warnings and logs of libraries off standard error, which is for errors and for progress."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
