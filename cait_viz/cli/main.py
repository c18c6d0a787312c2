"""The command line: `cait-viz`, or `python -m cait_viz`.

Commands are described by the parser and done by the library. Everything that can be refused without the
network is refused before TensorFlow, which takes seconds to start, is imported; so nothing here imports
it at the top.
"""

import argparse
import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cait_viz._files import check_output, replacing
from cait_viz._text import one_line
from cait_viz.attention.maps import FIGURE_FORMATS, check_index
from cait_viz.cli.arguments import command_line
from cait_viz.drawing.overlay import Look
from cait_viz.errors import CaitVizError, CheckpointError, SelectionError, UnknownModelError, UsageError
from cait_viz.model.config import CaiTConfig
from cait_viz.training.augmentation import Augmentation
from cait_viz.training.config import DISTILLATION, FINETUNING, Stage, TrainingConfig, parse_stages
from cait_viz.weights.registry import BUNDLED, Variant, get_variant
from cait_viz.weights.resolve import locate, resolve

if TYPE_CHECKING:
    from cait_viz.analysis import Analysis
    from cait_viz.model.cait import CaiT
    from cait_viz.training.run import Options, Outcome
    from cait_viz.weights.resolve import Checkpoint

_DONE, _FAILED, _WRONG_USAGE = 0, 1, 2
# What shells report of a program that Ctrl-C ended: 128 and the signal's number.
_INTERRUPTED = 128 + signal.SIGINT

# Set to anything, an error of the program itself is shown with its traceback.
_TRACEBACK_SETTING = "CAIT_VIZ_TRACEBACK"
# Errors list every tensor that does not fit; longer than this no line is of use.
_LONGEST_LINE = 20_000

_DEFAULT_MARK = "*"


def entry() -> NoReturn:
    """What the console script `cait-viz` calls: `main` on the arguments of the process."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; its number would go to the next file, and what is said into that
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin":  # a terminal that knows only ASCII shows escapes for what it cannot
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        0 when done; 1 when a given file, download, checkpoint or output cannot be used; 2 for wrong usage,
        an unknown model or a block or head that is not there; 130 when interrupted. An error is one line
        on standard error.
    """
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        _abandon_output()
        return _FAILED
    except CaitVizError as error:
        _complain(error)
        wrong_usage = isinstance(error, UsageError | UnknownModelError | SelectionError)
        return _WRONG_USAGE if wrong_usage else _FAILED
    except Exception as error:
        _complain(_unforeseen(error))
        return _FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = command_line().parse_args(argv)
    except SystemExit as end:  # of --help and --version
        return int(end.code or _DONE)
    arguments.words = sys.argv[1:] if argv is None else list(argv)
    status = _COMMANDS[arguments.command](arguments)
    sys.stdout.flush()  # or what cannot be written would be told by the interpreter, at its end
    return status


def _complain(error: object) -> None:
    print(f"cait-viz: {one_line(str(error), _LONGEST_LINE)}", file=sys.stderr)


def _unforeseen(error: Exception) -> str:
    """The sentence for what no room of the program has foreseen."""
    if isinstance(error, MemoryError):
        return "the memory is not enough; choose a smaller model or picture"
    if isinstance(error, OSError):
        _abandon_output()
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}the system refuses to read or write ({error.strerror or error})"
    if os.environ.get(_TRACEBACK_SETTING):
        traceback.print_exc()
    return (
        f"an error of the program itself ({type(error).__name__}: {error}); please report it, with what "
        f"{_TRACEBACK_SETTING}=1 shows"
    )


def _abandon_output() -> None:
    """Keep the interpreter from trying at its end, and complaining, to write what could not be written."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the commands: each returns the exit status ------------------------------------------------------


def _models(_: argparse.Namespace) -> int:
    from cait_viz.weights.registry import VARIANTS

    rows = [_model_row(variant) for variant in VARIANTS.values()]
    titles = ("name", "parameters", "download", "top-1", "here")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join((first, *others)).rstrip())
    print("\ntop-1: accuracy on ImageNet-1k in percent, as timm measured it.")
    print(f"{_DEFAULT_MARK} speaks unless --model names another; its accuracy: {BUNDLED.accuracy}.")
    return _DONE


def _model_row(variant: Variant) -> tuple[str, ...]:
    path = locate(variant)
    return (
        f"{variant.name} {_DEFAULT_MARK}" if variant is BUNDLED else variant.name,
        f"{variant.parameters / 1e6:.2f} M",
        f"{variant.download_megabytes} MB" if variant.repo_id else "none",
        f"{variant.top1:.1f}" if variant.top1 is not None else "-",
        "yes" if path else "no",
    )


def _fetch(arguments: argparse.Namespace) -> int:
    variants = [get_variant(name) for name in dict.fromkeys(arguments.models)]
    status = _DONE
    with _silence():
        for variant in variants:
            try:
                path = resolve(variant.name).path
            except CheckpointError as error:  # the others may well be there
                _complain(error)
                status = _FAILED
            else:
                print(f"{variant.name}: {path}", flush=True)
    return status


def _predict(arguments: argparse.Namespace) -> int:
    with _silence():
        _check_pictures(arguments, _config(arguments), [arguments.image])
        checkpoint = _checkpoint(arguments)
        analysis = _analyze(arguments, _load(checkpoint, arguments), arguments.image)
    if arguments.json:
        print(json.dumps(_as_json(analysis, arguments)))
        return _DONE
    print(f"{analysis.image_name}, seen by {_introduced(checkpoint)}")
    for rank, (label, probability) in enumerate(analysis.top(arguments.top), start=1):
        print(f"{rank:>4}  {100 * probability:>5.1f} %  {label}")
    return _DONE


def _as_json(analysis: "Analysis", arguments: argparse.Namespace) -> dict[str, Any]:
    ranked = zip(analysis.ranking, analysis.top(arguments.top), strict=False)
    return {
        "model": analysis.model.name,
        "image": str(arguments.image),
        "predictions": [
            {"index": int(index), "label": label, "probability": probability}
            for index, (label, probability) in ranked
        ],
    }


def _introduced(checkpoint: "Checkpoint") -> str:
    """Which model speaks, and how good it is as far as that is known."""
    if checkpoint.as_published and checkpoint.variant:
        return f"{checkpoint.name} ({checkpoint.variant.accuracy})"
    weights = one_line(checkpoint.path.name)
    return f"{checkpoint.name} with the weights of {weights}, whose accuracy is not known here"


def _attention(arguments: argparse.Namespace) -> int:
    import numpy as np

    with _silence():
        config = _config(arguments)
        for block in arguments.sa_blocks:
            check_index("SA block", block, config.sa_ffn_layers)
        _check_output(arguments, arguments.npz, [".npz"], [arguments.image])
        _check_pictures(arguments, config, [arguments.image])
        model = _load(_checkpoint(arguments), arguments)
        from cait_viz.api import attention_tensors

        tensors = attention_tensors(arguments.image, model, arguments.view, arguments.sa_blocks)
        with replacing(arguments.npz) as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]
    _tell(arguments.npz, ", ".join(tensors))
    return _DONE


def _render(arguments: argparse.Namespace) -> int:
    with _silence():
        config = _config(arguments)
        _check_block(arguments, config)
        if arguments.head is not None:
            check_index("head", arguments.head, config.num_heads)
        look = {
            option: getattr(arguments, option)
            for option in ("style", "colormap", "alpha", "interpolation", "scale")
        }
        Look(**look)
        _check_output(arguments, arguments.output, [".png"], [arguments.image])
        _check_pictures(arguments, config, [arguments.image])
        analysis = _analyze(arguments, _load(_checkpoint(arguments), arguments), arguments.image)
        content = analysis.png(arguments.block, arguments.head, **look)
        with replacing(arguments.output) as file:
            file.write(content)
    _tell(arguments.output, analysis.title(arguments.block, arguments.head))
    return _DONE


def _figure(arguments: argparse.Namespace) -> int:
    if arguments.kind == "heads" and arguments.block is not None:
        raise UsageError(
            "--block is for --kind saliency: the figure of the heads shows every block; leave it out"
        )
    with _silence():
        config = _config(arguments)
        _check_block(arguments, config)
        endings = [f".{ending}" for ending in FIGURE_FORMATS]
        _check_output(arguments, arguments.output, endings, arguments.images)
        _check_pictures(arguments, config, arguments.images)
        model = _load(_checkpoint(arguments), arguments)
        analyses = [_analyze(arguments, model, image) for image in arguments.images]
        from cait_viz.drawing.figures import draw_figure

        content = draw_figure(
            analyses,
            arguments.kind,
            arguments.output.suffix.lower().removeprefix("."),
            block=arguments.block,
            colormap=arguments.colormap,
            interpolation=arguments.interpolation,
            scale=arguments.scale,
        )
        with replacing(arguments.output) as file:
            file.write(content)
    _tell(arguments.output, f"{arguments.kind} of {', '.join(result.image_name for result in analyses)}")
    return _DONE


def _finetune(arguments: argparse.Namespace) -> int:
    with _silence():
        recipe = _recipe(arguments)
        _start_training(arguments)
        from cait_viz.training.api import finetune

        outcome = finetune(
            arguments.pictures,
            arguments.output,
            model=arguments.model,
            weights=arguments.weights,
            labels=arguments.labels,
            validation=arguments.validation or arguments.validation_share,
            recipe=recipe,
            options=_run_options(arguments),
        )
    return _tell_outcome(outcome)


def _distil(arguments: argparse.Namespace) -> int:
    with _silence():
        recipe = _recipe(arguments)
        _start_training(arguments)
        from cait_viz.training.api import distil

        outcome = distil(
            arguments.pictures,
            arguments.output,
            folder_weights=dict(arguments.folder_weight),
            teacher=arguments.teacher,
            teacher_size=arguments.teacher_size,
            model=arguments.model,
            weights=arguments.weights,
            labels=arguments.labels,
            validation=arguments.validation,
            recipe=recipe,
            options=_run_options(arguments),
        )
    return _tell_outcome(outcome)


def _recipe(arguments: argparse.Namespace) -> TrainingConfig:
    """The command's usual recipe, with what was given in place of its values.

    Raises:
        UsageError: a value out of its range.
    """
    usual = FINETUNING if arguments.command == "finetune" else DISTILLATION
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        if arguments.stages is not None:
            given["stages"] = parse_stages(arguments.stages)
        elif arguments.epochs is not None:
            given["stages"] = (Stage(None, arguments.epochs),)
        changed = {field.name: given[field.name] for field in fields(Augmentation) if field.name in given}
        given["augmentation"] = replace(usual.augmentation, **changed)
        return replace(
            usual,
            **{field.name: given[field.name] for field in fields(TrainingConfig) if field.name in given},
        )
    except ValueError as error:
        raise UsageError(f"{error}; see cait-viz {arguments.command} --help") from None


def _start_training(arguments: argparse.Namespace) -> None:
    """Import Keras on the backend that was asked for."""
    from cait_viz._backend import import_keras, installed_backend, keep_freed_memory

    backend = arguments.backend or installed_backend()
    try:
        with _interrupted_at_once():
            import_keras(backend, arguments.threads)
    except ImportError:
        raise UsageError(f"the backend {backend} is not installed; install it, or choose another") from None
    keep_freed_memory()


def _run_options(arguments: argparse.Namespace) -> "Options":
    from cait_viz.training.run import Options

    return Options(
        resume=arguments.resume,
        checkpoint_minutes=arguments.checkpoint_minutes,
        cache=arguments.cache,
        half=arguments.half,
        tensorboard=arguments.tensorboard,
        threads=arguments.threads,
        command=shlex.join(["cait-viz", *arguments.words]),
    )


def _tell_outcome(outcome: "Outcome") -> int:
    measured = ", ".join(f"{name} {100 * share:.1f} %" for name, share in outcome.accuracy.items())
    _tell(outcome.weights, f"validation {measured}" if measured else "not validated")
    files = shlex.join(["--weights", str(outcome.weights), "--labels", str(outcome.labels)])
    print(f"look at it with: cait-viz app {files}")
    return _DONE


def _app(arguments: argparse.Namespace) -> int:
    if arguments.labels is not None and arguments.weights is None:
        raise UsageError(
            "--labels is for --weights: the app's other models have names for their classes; give the "
            "weights too, or leave it out"
        )
    from cait_viz.serving import models, state

    user_model = None
    if arguments.weights is not None:
        with _silence():
            checkpoint = resolve(weights=arguments.weights)
            _check_classes(checkpoint.config, arguments)
            user_model = models.user_model(checkpoint, arguments.labels)
    given = {"--server.port": arguments.port, "--server.address": arguments.host}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    state.launch([*options, *arguments.options], user_model)
    return _DONE


# --- what the commands share ------------------------------------------------------------------------


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "models": _models,
    "fetch": _fetch,
    "predict": _predict,
    "attention": _attention,
    "render": _render,
    "figure": _figure,
    "finetune": _finetune,
    "distil": _distil,
    "app": _app,
}


def _config(arguments: argparse.Namespace) -> CaiTConfig:
    """The architecture that is going to speak, told without a download.

    Raises:
        UnknownModelError: there is no model of that name.
        CheckpointError: the given weights or labels cannot be used.
    """
    if arguments.weights is not None:
        config = resolve(arguments.model, arguments.weights).config
    else:
        config = (BUNDLED if arguments.model is None else get_variant(arguments.model)).config
    _check_classes(config, arguments)
    return config


def _check_classes(config: CaiTConfig, arguments: argparse.Namespace) -> None:
    """Refuse weights without a classifier, and labels that do not name its classes."""
    from cait_viz.weights.labels import class_names

    if config.pre_logits:
        raise CheckpointError(
            f"{one_line(arguments.weights.name)}: has no classifier (head.weight, head.bias); give weights "
            "with a head"
        )
    class_names(config.num_classes, arguments.labels)


def _check_block(arguments: argparse.Namespace, config: CaiTConfig) -> None:
    if arguments.block is not None:
        check_index("CA block", arguments.block, config.ca_ffn_layers)


def _check_output(
    arguments: argparse.Namespace, output: Path, endings: Sequence[str], images: Sequence[Path]
) -> None:
    given = (arguments.weights, arguments.labels)
    check_output(output, endings, [*images, *(path for path in given if path is not None)])


def _check_pictures(arguments: argparse.Namespace, config: CaiTConfig, images: Sequence[Path]) -> None:
    """Read each picture once, so that one that cannot be read is told at once and not after the network."""
    from cait_viz.images.preprocess import prepare

    for image in images:
        prepare(image, config.image_size, arguments.view)


def _checkpoint(arguments: argparse.Namespace) -> "Checkpoint":
    """The weights that were asked for, downloaded if need be."""
    return resolve(arguments.model, arguments.weights)


def _load(checkpoint: "Checkpoint", arguments: argparse.Namespace) -> "CaiT":
    """The network, filled."""
    from cait_viz._backend import import_tensorflow

    with _interrupted_at_once():
        import_tensorflow()
    from cait_viz.api import from_checkpoint

    return from_checkpoint(checkpoint, arguments.labels)


def _analyze(arguments: argparse.Namespace, model: "CaiT", image: Path) -> "Analysis":
    from cait_viz.api import analyze

    return analyze(image, model, arguments.view)


def _tell(path: Path, what: str) -> None:
    print(f"{one_line(str(path), 300)}: {one_line(what, 500)}")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the warnings and logs of libraries off standard error, which is for errors and for progress."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """End the process on Ctrl-C without a word.

    In the middle of an import of compiled modules the exception would come out as another, with log lines.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
