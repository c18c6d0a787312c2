"""Many images on a Ray cluster: what `cait-viz batch --ray ADDRESS` does.

Ray Data deals the list out to a pool of actors, each of which holds the network, and repeats what is lost
with a process or a machine. The rows come back in any order to the process that began the run, which writes
them as a run on one machine does.
"""

import contextlib
import io
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cait_viz._backend import stderr_held
from cait_viz._sizes import ImageSize
from cait_viz._text import one_line
from cait_viz._version import __version__
from cait_viz.api import labels_of
from cait_viz.batch.index import Index
from cait_viz.batch.output import Output, Step
from cait_viz.batch.work import BATCH, BatchOptions, Made, Worker
from cait_viz.engine import memory
from cait_viz.engine.base import Engine, EngineName
from cait_viz.engine.load import load_engine
from cait_viz.engine.openvino import limit_threads
from cait_viz.errors import CaitVizError, CheckpointError, ClusterError
from cait_viz.images.preprocess import View
from cait_viz.model.config import Precision
from cait_viz.model.timm_names import count_parameters
from cait_viz.weights.resolve import resolve

# Images of a task: a few seconds to a few minutes of one core. Ray ends a run in which no task is done for
# half an hour, so a task of a large network has one batch.
_TASK, _LARGE = 8 * BATCH, 10**8
# Tasks that Ray Data is given at once. It remembers something of each until all are done.
TASKS_AT_ONCE = 2**14
# Actors that may die in a row while they load the network, before the run ends.
_DEATHS_AT_START = 3
# What is written beside the rows goes to the writer in pieces of about this size, in bytes.
_PIECE = 16 * 2**20
_CONNECTION_SECONDS, _EXECUTOR_SECONDS = 5, 60

# Columns of the tables that actors send: the files of each image, and in place of rows what went wrong.
_FILES, _REFUSED = "files", "refused"
_FILES_TYPE = pa.list_(pa.struct([("name", pa.string()), ("content", pa.large_binary())]))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which network an actor has to load.

    Attributes:
        name: of the variant; see `cait_viz.weights.resolve.resolve`.
        weights: a checkpoint in place of the variant's own.
        image_size: of its input.
    """

    name: str | None = None
    weights: Path | None = None
    image_size: ImageSize | None = None


def run_on_ray(
    images: Iterable[str] | Index,
    model: ModelSpec,
    engine: Engine,
    output: Path,
    options: BatchOptions = BatchOptions(),
    *,
    address: str,
    view: View = "crop",
    resume: bool = False,
    step: Step = lambda count, before: None,
    cores: int = 1,
    images_per_task: int | None = None,
    tasks_at_once: int = TASKS_AT_ONCE,
) -> int:
    """Ask a network about many images on a Ray cluster; the folder gets the same bytes as by `run_batch`.

    All machines see the images and the weights at the same paths and have this version of the package. Only
    this one writes the output. Paths that are not absolute begin in this process's working folder.

    Args:
        images: paths or addresses; one that is named twice is looked at once.
        model: what the actors load; it has to have the weights of `engine`.
        engine: the same network, loaded here.
        output: the folder to write; a new or empty one, or with `resume` that of the interrupted run.
        options: what is kept.
        address: of the cluster: "auto" for the one that this machine is part of, "local" for a new one on
            this machine, or HOST:PORT.
        view: what the network sees.
        resume: do what is missing and no more, whether this or `run_batch` began; what could not be read
            before is tried again.
        step: gets a number of images that are done, and whether they were done before.
        cores: how many an actor has; there are as many actors as cores and memory allow.
        images_per_task: what is done anew when a process dies; by default it follows the network's size.
        tasks_at_once: how many tasks are made of the list at a time.

    Returns:
        How many images could not be read; their rows say why.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, it gives up, or an actor cannot load this
            network: with other weights or another version of this package on its machine, for instance.
        OutputError: the folder cannot be written, or is of another run.
    """
    order = _Order(
        model=model,
        sha256=engine.source.sha256,
        engine=engine.name,
        precision=engine.precision,
        labels=labels_of(engine),
        options=options,
        view=view,
        folder=os.getcwd(),  # noqa: PTH109
        cores=cores,
        version=__version__,
    )
    size = images_per_task or (BATCH if count_parameters(engine.config) > _LARGE else _TASK)
    resources = {"num_cpus": cores, "memory": memory.estimate(engine.config)}

    with _connected(address):
        place = Output(images, engine, output, options, view, resume=resume)

        def answers(missing: Iterator[str]) -> Iterator[pa.Table]:
            tasks = iter(lambda: list(islice(missing, size)), [])
            while references := _put(islice(tasks, tasks_at_once)):
                for table in _asked(references, order, resources):
                    if _FILES in table.column_names:
                        for files in table[_FILES].to_pylist():
                            place.write_files({file["name"]: file["content"] for file in files})
                    yield table.select(place.schema.names).cast(place.schema)

        return place.write_rows(answers, step)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to a cluster, unless this process has one; Ray keeps quiet meanwhile."""
    # What is started here reports nothing to Ray's makers, and its C++ code does not write to the terminal.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data.exceptions
    except ImportError as error:
        raise ClusterError(
            f'--ray: Ray cannot be imported ({error}); install it with: pip install "ray[data]"'
        ) from None
    # Ray prints what happens to processes on the standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        begun = not ray.is_initialized()
        if begun:
            _connect(address)
        try:
            yield
        except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
            # What happened stands behind the traceback of another process, and before advice of Ray's.
            text = str(error).strip()
            reason = [*text.splitlines()[-1:], *re.findall(r"^[\w.]+(?:Error|Exception): .+", text, re.M)][-1]
            raise ClusterError(f"Ray gives up: {one_line(reason, 500)}; go on with --resume") from None
        finally:
            if begun:
                _wait_for_executors()
                ray.shutdown()


def _wait_for_executors() -> None:
    """Wait until Ray Data's threads have ended, so that none of them asks a Ray that is gone.

    Ray Data itself waits two seconds for those of a run that was broken off.
    """
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor"):
            thread.join(_EXECUTOR_SECONDS)


def _connect(address: str) -> None:
    import ray

    with stderr_held():
        try:
            _check_address(address)
            ray.init(address, log_to_driver=False)
            return
        except (OSError, ValueError, RuntimeError) as error:
            reason = one_line(str(error), 300)
    raise ClusterError(
        f"--ray {one_line(address)}: no connection ({reason}); start Ray on this machine with `ray "
        "start`, or use --ray local"
    )


def _check_address(address: str) -> None:
    """Refuse, by an OSError or ValueError, what Ray would try to reach for minutes."""
    if "://" in address:
        raise ValueError(
            "Ray Data needs a process in the cluster; run the command there, by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _CONNECTION_SECONDS).close()


def _put(tasks: Iterable[list[str]]) -> list[Any]:
    """Hand tasks, each a list of images, to Ray; what its object store cannot hold goes to the disk."""
    import ray

    encoded = ([image.encode("utf-8", "surrogatepass") for image in task] for task in tasks)
    return [ray.put(pa.table({"image": task})) for task in encoded]


def _asked(references: list[Any], order: "_Order", resources: Mapping[str, Any]) -> Iterator[pa.Table]:
    """What the actors answer to tasks, as it comes."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = _DEATHS_AT_START
    context.target_max_block_size = _PIECE
    dataset = ray.data.from_arrow_refs(references).map_batches(
        _Actor,
        fn_constructor_args=(order,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(),
        **resources,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        table: Any = batch
        if _REFUSED in table.column_names:
            raise ClusterError(table[_REFUSED][0].as_py())
        yield table


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What an actor is told."""

    model: ModelSpec
    sha256: str
    engine: EngineName
    precision: Precision
    labels: tuple[str, ...]
    options: BatchOptions
    view: View
    folder: str
    cores: int
    version: str


class _Actor:
    """Holds the network on a machine of the cluster, and makes the rows of one task after the other."""

    def __init__(self, order: _Order) -> None:
        self._options = order.options
        self._worker: Worker | None = None
        # Ray would hide an error of its constructor's behind its own, and try again.
        self._refused = ""
        try:
            self._worker = self._load(order)
        except CaitVizError as error:
            self._refused = f"{socket.gethostname()}: {error}"

    def _load(self, order: _Order) -> Worker:
        if order.version != __version__:
            raise ClusterError(f"has cait-viz {__version__}; install {order.version}, as where the run began")
        limit_threads(order.cores)
        checkpoint = resolve(order.model.name, order.model.weights, progress=False)
        if checkpoint.sha256 != order.sha256:
            raise CheckpointError(
                f"{checkpoint.origin}: is another file than where the run began (SHA-256 "
                f"{checkpoint.sha256[:12]}…, not {order.sha256[:12]}…); copy that one here"
            )
        engine = load_engine(
            checkpoint.at(order.model.image_size), engine=order.engine, precision=order.precision
        )
        engine.labels = order.labels
        return Worker(engine, order.options, order.view, order.folder)

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        if self._worker is None:
            yield pa.table({_REFUSED: [self._refused]})
            return
        schema = self._worker.rows.schema
        if self._options.folders:
            schema = schema.append(pa.field(_FILES, _FILES_TYPE))
        names = (name.decode("utf-8", "surrogatepass") for name in task["image"].to_pylist())
        for rows in self._worker.answers(names, _with_files):
            yield pa.Table.from_pylist(rows, schema)


def _with_files(made: Made) -> dict[str, Any]:
    row, files = made
    return row | {_FILES: [{"name": name, "content": content} for name, content in files.items()]}
