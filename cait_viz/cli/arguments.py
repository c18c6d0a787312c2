"""What the command line accepts: its commands, their options and what each means."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cait_viz import __version__
from cait_viz._backend import BACKENDS
from cait_viz.attention.maps import INTERPOLATIONS, SCALES
from cait_viz.drawing.figures import FIGURES
from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_COLORMAPS, STYLES, Look
from cait_viz.errors import UsageError
from cait_viz.images.preprocess import VIEWS
from cait_viz.training.config import PRECISIONS
from cait_viz.weights.registry import BUNDLED

_MEAN = "mean"
_TOP = 5

# The recipe's numbers: field, type, help. Their defaults are the recipe's.
_RECIPE: tuple[tuple[str, type, str], ...] = (
    ("batch_size", int, "pictures in a step"),
    ("learning_rate", float, "of AdamW, at its highest"),
    ("warmup", float, "share of the steps in which the learning rate rises"),
    ("weight_decay", float, "of AdamW, for the kernels alone"),
    ("clip_norm", float, "norm that the gradient is clipped to"),
    ("label_smoothing", float, "share of a label that is spread over all classes"),
    ("sd_prob", float, "probability that stochastic depth drops a branch"),
    ("ema", float, "share of the steps over which the written weights are averaged; 0: the last"),
    ("crop_scale", float, "least share of a picture's area that is shown"),
    ("flip", float, "probability of a mirrored picture"),
    ("color_jitter", float, "change of brightness, contrast and saturation"),
    ("mixup", float, "alpha of mixup, 0 for none"),
    ("seed", int, "decides on all that is random"),
)
_DISTILLATION: tuple[tuple[str, type, str], ...] = (
    ("label_weight", float, "share of the label, where there is one, in what is learned (default: 0)"),
    ("feature_weight", float, "weight of the teacher's feature map in the loss"),
    (
        "kept_views",
        int,
        "views of each picture for which the teacher's answers are kept; 0: all views are new",
    ),
)

_COUNTING = (
    "Blocks and heads count from 0 here, as the keys of the tutorial do (ca_ffn_block_0_att); "
    "the app and the figures count them from 1, as the paper does."
)

_WEIGHTS = "a safetensors file with timm's tensor names"
_LABELS = "the names of the classes, one a line"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def command_line() -> argparse.ArgumentParser:
    """The parser; what it returns names the `command` and holds that command's options.

    Raises (when it parses):
        UsageError: arguments that are no command.
        SystemExit: after --help and --version.
    """
    parser = _Parser(
        prog="cait-viz",
        description="See where a CaiT vision transformer looks: class-attention maps of any picture.",
        epilog=f"{_COUNTING} `cait-viz COMMAND --help` tells more of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    model, drawing = _model_options(), _drawing_options()
    _add_models(commands)
    _add_fetch(commands)
    _add_predict(commands, model)
    _add_attention(commands, model)
    _add_render(commands, model, drawing)
    _add_figure(commands, model, drawing)
    training = _training_options()
    _add_finetune(commands, training)
    _add_distil(commands, training)
    _add_app(commands)
    return parser


def _add(commands: Any, name: str, help: str, parents: Sequence[Any] = (), note: str = "") -> Any:
    description = f"{help[0].upper()}{help[1:]}. {note}"
    return commands.add_parser(name, help=help, description=description, parents=parents)


def _model_options() -> argparse.ArgumentParser:
    """What means the same in every command that runs a network."""
    options = _Parser(add_help=False)
    group = options.add_argument_group("the model")
    group.add_argument(
        "--model",
        metavar="M",
        help=f"a name that `cait-viz models` lists (default: {BUNDLED.name}, or the architecture that "
        "--weights show); downloaded if it is not on this machine",
    )
    group.add_argument(
        "--weights", metavar="FILE", type=Path, help=f"{_WEIGHTS}, in place of the model's own weights"
    )
    group.add_argument("--labels", metavar="FILE", type=Path, help=_LABELS)
    group.add_argument(
        "--view",
        choices=VIEWS,
        default=VIEWS[0],
        help="what the network sees: the centre square, or the whole picture squashed to a square "
        "(default: %(default)s)",
    )
    return options


def _drawing_options() -> argparse.ArgumentParser:
    """What means the same in every command that draws."""
    options = _Parser(add_help=False)
    group = options.add_argument_group("the drawing")
    group.add_argument(
        "--block",
        metavar="I",
        type=int,
        help="class-attention block, from 0 (default: the one that serves best as saliency)",
    )
    group.add_argument("--colormap", choices=COLORMAPS, help="default: the style's or the figure's own")
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        default=Look.interpolation,
        help="between the patches (default: %(default)s)",
    )
    group.add_argument(
        "--scale",
        choices=SCALES,
        default=Look.scale,
        help="each map in a range of its own, or one range shared by all heads of all blocks, so that "
        "maps compare (default: %(default)s)",
    )
    return options


def _training_options() -> argparse.ArgumentParser:
    """What means the same in both commands that train; the recipe's options are named as its fields."""
    options = _Parser(add_help=False)
    _add_output(options, "OUT", "the folder to write to: model.safetensors, labels.txt, card.json, log.csv")
    recipe = options.add_argument_group("the recipe")
    length = recipe.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        metavar="E",
        type=float,
        help="how often each picture is shown, at the network's resolution",
    )
    length.add_argument(
        "--stages",
        metavar="SIZE:EPOCHS,…",
        help="several resolutions one after the other, in pixels, such as 112:20,224:4; low first saves time",
    )
    for name, kind, help in _RECIPE:
        recipe.add_argument(f"--{name.replace('_', '-')}", metavar="N", type=kind, help=help)
    recipe.add_argument("--precision", choices=PRECISIONS, help="of the arithmetic (default: float32)")
    how = options.add_argument_group("the run")
    how.add_argument("--resume", action="store_true", help="go on with what was interrupted in OUT")
    how.add_argument(
        "--checkpoint-minutes",
        metavar="N",
        type=_minutes,
        default=10.0,
        help="a run that is killed loses no more than this (default: %(default)g)",
    )
    how.add_argument("--half", action="store_true", help="write float16 weights, half as large")
    how.add_argument(
        "--backend",
        choices=BACKENDS,
        help="of Keras (default: KERAS_BACKEND, or the first that is installed)",
    )
    how.add_argument(
        "--threads", metavar="N", type=_count, help="on the CPU (default: all cores; JAX takes all)"
    )
    how.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        help="where decoded pictures and a teacher's answers are kept, for the next run too (default: in "
        "OUT, and removed at the end)",
    )
    how.add_argument("--tensorboard", action="store_true", help="write logs for TensorBoard to OUT as well")
    return options


def _add_finetune(commands: Any, training: argparse.ArgumentParser) -> None:
    parser = _add(
        commands,
        "finetune",
        "teach a pretrained CaiT the classes of pictures of your own",
        [training],
        "PICTURES holds a folder of pictures for each class. The weights of the last epochs are averaged and "
        "written with timm's tensor names; every command and the app open them by --weights and --labels.",
    )
    parser.add_argument("pictures", metavar="PICTURES", type=Path, help="a folder with one folder a class")
    parser.add_argument("--model", metavar="M", help=f"the network to start from (default: {BUNDLED.name})")
    parser.add_argument("--weights", metavar="FILE", type=Path, help="weights to start from, as safetensors")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the names of its classes; where they are the pictures', its classifier is kept",
    )
    held_back = parser.add_mutually_exclusive_group()
    held_back.add_argument(
        "--validation",
        metavar="FOLDER",
        type=Path,
        help="pictures to validate with, in folders of the same names",
    )
    held_back.add_argument(
        "--validation-share",
        metavar="S",
        type=float,
        default=0.1,
        help="of each class, held back to validate with where no folder is given (default: %(default)g)",
    )


def _add_distil(commands: Any, training: argparse.ArgumentParser) -> None:
    parser = _add(
        commands,
        "distil",
        "let a CaiT learn from a teacher what it says of pictures",
        [training],
        "The teacher is an ONNX file with one input, RGB in [0, 1] as (B, 3, S, S), and two outputs, logits "
        "and features, its last feature map. The pictures need no labels; those in a folder that is named as "
        "a class, or after its WordNet id, have one.",
    )
    parser.add_argument(
        "pictures",
        metavar="PICTURES",
        type=Path,
        nargs="+",
        help="folders of pictures",
    )
    parser.add_argument(
        "--folder-weight",
        metavar="FOLDER=W",
        type=_folder_weight,
        action="append",
        default=[],
        help="show each picture of a folder W times an epoch on average, 0.1 being a tenth of them; a folder "
        "within another may have a weight of its own; may be given several times (default: once)",
    )
    parser.add_argument("--teacher", metavar="T.onnx", type=Path, required=True, help="the teacher's file")
    parser.add_argument(
        "--teacher-size",
        metavar="S",
        type=_count,
        help="side of its input in pixels (default: its own, or 224)",
    )
    parser.add_argument("--model", metavar="M", help=f"the student's architecture (default: {BUNDLED.name})")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, help="weights to start from (default: random ones)"
    )
    parser.add_argument("--labels", metavar="FILE", type=Path, help="the names of the teacher's classes")
    parser.add_argument(
        "--validation",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="pictures to validate with, in folders named as classes; may be given several times",
    )
    for name, kind, help in _DISTILLATION:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="N", type=kind, help=help)


def _add_models(commands: Any) -> None:
    _add(commands, "models", "list the models, their size and accuracy, and which are on this machine")


def _add_fetch(commands: Any) -> None:
    parser = _add(commands, "fetch", "download the weights of models into the cache of the Hugging Face hub")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that `cait-viz models` lists")


def _add_predict(commands: Any, model: argparse.ArgumentParser) -> None:
    parser = _add(commands, "predict", "name what a picture shows", [model])
    _add_image(parser)
    parser.add_argument(
        "--top", metavar="N", type=_count, default=_TOP, help="how many classes (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_attention(commands: Any, model: argparse.ArgumentParser) -> None:
    parser = _add(
        commands,
        "attention",
        "write the raw numbers of a picture to a NumPy archive",
        [model],
        "The archive holds, in float32: pixels (1, H, W, 3), normalised; logits (1, C); for each "
        "class-attention block I ca_ffn_block_I_att (1, heads, 1, 1 + N), index 0 being the class token "
        "itself; for each self-attention block K asked for sa_ffn_block_K_att (1, heads, N, N). "
        "Blocks count from 0.",
    )
    _add_image(parser)
    parser.add_argument("--npz", metavar="OUT.npz", type=Path, required=True, help="the archive to write")
    parser.add_argument(
        "--sa-block",
        metavar="K",
        type=int,
        action="append",
        default=[],
        dest="sa_blocks",
        help="a self-attention block, from 0, to write as well; may be given several times",
    )


def _add_render(commands: Any, model: argparse.ArgumentParser, drawing: argparse.ArgumentParser) -> None:
    parser = _add(
        commands, "render", "draw where one head looked, over the picture", [model, drawing], _COUNTING
    )
    _add_image(parser)
    _add_output(parser, "OUT.png", "the picture to write, of the size of the one given")
    parser.add_argument(
        "--head",
        metavar=f"J|{_MEAN}",
        type=_head,
        help=f"attention head, from 0, or the {_MEAN} of the heads (default: {_MEAN})",
    )
    own = ", ".join(f"{colormap} for {style}" for style, colormap in DEFAULT_COLORMAPS.items())
    parser.add_argument(
        "--style",
        choices=STYLES,
        default=Look.style,
        help="the coloured map over the picture; the grey picture multiplied by the map, as in the paper; "
        f"the map alone (default: %(default)s). Their colormaps: {own}",
    )
    parser.add_argument(
        "--alpha",
        metavar="A",
        type=float,
        default=Look.alpha,
        help="opacity of an overlay, from 0 to 1 (default: %(default)s)",
    )


def _add_figure(commands: Any, model: argparse.ArgumentParser, drawing: argparse.ArgumentParser) -> None:
    parser = _add(
        commands,
        "figure",
        "draw Figure 6 or Figure 7 of the paper for pictures of your own",
        [model, drawing],
        _COUNTING,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="a picture")
    _add_output(parser, "OUT", "the figure to write; .png, .svg or .pdf")
    parser.add_argument(
        "--kind",
        choices=FIGURES,
        required=True,
        help="every head of every class-attention block (Figure 6), or the saliency of one block, --block, "
        "and the classes above 10 %% (Figure 7)",
    )


def _add_app(commands: Any) -> None:
    parser = _add(
        commands,
        "app",
        "serve the web app",
        note="What follows -- is handed to `streamlit run`.",
    )
    parser.add_argument("--port", metavar="N", type=_port, help="port to listen on (default: 8501)")
    parser.add_argument("--host", metavar="H", help="address to listen on (default: this machine alone)")
    parser.add_argument("--weights", metavar="FILE", type=Path, help=f"{_WEIGHTS}, to offer and to open on")
    parser.add_argument("--labels", metavar="FILE", type=Path, help=f"{_LABELS}; for --weights")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of `streamlit run`")


def _add_image(parser: Any) -> None:
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture")


def _add_output(parser: Any, metavar: str, help: str) -> None:
    parser.add_argument("-o", "--output", metavar=metavar, type=Path, required=True, help=help)


def _count(text: str) -> int:
    return _whole(text, 1, None)


def _folder_weight(text: str) -> tuple[Path, float]:
    folder, equals, weight = text.rpartition("=")
    try:
        if not equals or not folder:
            raise ValueError
        return Path(folder), float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no folder with a weight; write FOLDER=W, such as pictures/dogs=0.1"
        ) from None


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")
    return value


def _whole(text: str, least: int, most: int | None) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        end = f"at least {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {end}")
    return value


def _head(text: str) -> int | None:
    if text == _MEAN:
        return None
    try:
        return int(text)
    except ValueError:
        message = f"{text!r} is neither the number of a head nor {_MEAN!r}"
        raise argparse.ArgumentTypeError(message) from None
