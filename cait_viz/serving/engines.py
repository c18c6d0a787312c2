"""The threads that analyze images for all visitors, and the networks that they keep.

OpenVINO computes outside Python's lock, so that the page answers meanwhile. One image is computed at a time,
by all cores; a network that is being exported or compiled keeps no image of another one waiting, nor does a
question that takes long. Before each of the three threads visitors take turns (cait_viz.serving.queue).
"""

import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple

from cachetools import LRUCache

from cait_viz import api
from cait_viz._sizes import ImageSize
from cait_viz._text import file_text, one_line
from cait_viz.engine import memory
from cait_viz.engine.base import Engine, EngineName
from cait_viz.engine.load import load_engine
from cait_viz.engine.process import KerasProcess
from cait_viz.errors import CaitVizError, CheckpointError, MemoryShortageError, ProcessDiedError
from cait_viz.images.preprocess import View
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.model.config import Precision
from cait_viz.serving.answers import Answer, Found, GivenUpError, Worker
from cait_viz.serving.measures import Measures
from cait_viz.weights.resolve import Checkpoint, resolve

# Of inputs of other sizes than the networks were trained for, so many are kept ready.
_OTHER_SIZES = 4
# Decoded images are kept up to so many bytes.
_DECODED = 256 * 10**6


@dataclass(frozen=True)
class ModelChoice:
    """Which model to ask: a variant, or a user's own checkpoint; nothing is the bundled model.

    Attributes:
        name: the variant's name.
        checkpoint: a user's own, as it was when the app was started.
        labels: a file with the names of the classes.
        display_name: what the results call the model; by default they name it after its checkpoint.
        image_size: size of its input in pixels; by default what it was trained for.
    """

    name: str | None = None
    checkpoint: Checkpoint | None = None
    labels: Path | None = None
    display_name: str | None = None
    image_size: ImageSize | None = None


@dataclass(frozen=True)
class Request(Generic[Found]):
    """A question about one image.

    Attributes:
        image: the bytes of its file.
        image_name: the name of its file.
        view: the part to look at.
        model: whom to ask.
        question: a function of `cait_viz.api` or `questions`, of the loaded image, the network and `view`.
        long: whether it takes seconds. It then keeps no other waiting, is told `progress`, and ends as soon
            as nobody waits for it any longer.
        session: who asks; sessions take turns.
    """

    image: bytes
    image_name: str
    view: View
    model: ModelChoice
    question: Callable[..., Found]
    long: bool = False
    session: str = ""

    @property
    def kind(self) -> Hashable:
        """Tells requests that take about as long from others."""
        function = self.question.func if isinstance(self.question, partial) else self.question
        return (getattr(function, "__qualname__", ""), self.model)


class KeptModel(NamedTuple):
    """A network that is kept ready."""

    name: str
    size: int  # of its weights, in bytes


class Engines:
    """Networks that are ready; those unused for longest make room. Safe for several threads.

    Args:
        limit: how many bytes of weights are kept; the network used last is kept in any case.
        load: makes the network of a choice.
    """

    def __init__(self, limit: int, load: Callable[[ModelChoice], Engine]) -> None:
        self._limit = limit
        self._load = load
        self._kept: OrderedDict[Any, Engine] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, choice: ModelChoice) -> Engine | None:
        """The network, if it is kept and its checkpoint was not written since."""
        with self._lock:
            key = _key(choice)
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def load(self, choice: ModelChoice) -> Engine:
        """The network, loaded if it is not kept."""
        engine = self.find(choice)
        if engine is None:
            try:
                engine = self._load(choice)
            except MemoryShortageError as error:
                with self._lock:
                    if error.missing > sum(memory.weight_bytes(kept.config) for kept in self._kept.values()):
                        raise
                    self._kept.clear()
                engine = self._load(choice)
            with self._lock:
                self._kept[_key(choice)] = engine
                sizes = {key: memory.weight_bytes(kept.config) for key, kept in self._kept.items()}
                others = [key for key in self._kept if key[0].image_size is not None]
                for key in list(self._kept)[:-1]:
                    if sum(sizes.values()) > self._limit or key in others[:-_OTHER_SIZES]:
                        del self._kept[key], sizes[key]
        return engine

    def kept(self) -> list[KeptModel]:
        """The networks that are kept, the one used last at the end."""
        with self._lock:
            return [
                KeptModel(kept.source.name, memory.weight_bytes(kept.config)) for kept in self._kept.values()
            ]

    def drop(self, choice: ModelChoice) -> None:
        """Keep the network no longer."""
        with self._lock:
            self._kept.pop(_key(choice), None)


class Analyzer:
    """Answers questions about images, one after the other; those who ask take turns.

    Args:
        engines: the networks.
        first: the model that is made ready at once.

    Attributes:
        workers: the threads, by what they do: "loading" a model, "looking" at an image, or "measuring", which
            takes seconds.
        measures: what has been counted so far.
    """

    def __init__(self, engines: Engines, first: ModelChoice | None = None) -> None:
        self.engines = engines
        self.measures = Measures()
        # By the bytes of their files: all questions about an image read it once.
        self._images: LRUCache[tuple[bytes, str], LoadedImage] = LRUCache(
            _DECODED, lambda loaded: 3 * loaded.image.width * loaded.image.height
        )
        self._reading = threading.Lock()
        self.workers = {name: Worker(name) for name in ("loading", "looking", "measuring")}
        if first is not None:
            # Whoever asks for a model that cannot be loaded gets the error.
            self.workers["loading"].call(lambda: self.engines.load(first))

    def ask(self, request: Request[Found]) -> Answer[Found]:
        """Ask a question about one image.

        The answer raises what the question and `cait_viz.load_engine` raise. It can be cancelled until its
        turn comes.
        """
        answer: Answer[Found] = Answer(request.session)
        engine = self.engines.find(request.model)
        if engine is not None:
            self._turn(answer, request, engine)
        else:
            status = "Waiting for a model that is loaded before it."
            self.workers["loading"].put(answer, status, partial(self._load_and_look, answer, request))
        return answer

    def stop(self) -> None:
        """Finish what has begun, and nothing else."""
        for worker in self.workers.values():
            worker.stop()

    def _load_and_look(self, answer: Answer[Any], request: Request[Any]) -> bool:
        if answer.cancelled():
            return False
        answer.tell("Loading the model. The first time, it is compiled for this machine, which takes longer.")
        try:
            engine = self.engines.load(request.model)
        except BaseException as error:
            self.measures.failed(error)
            if answer.set_running_or_notify_cancel():
                answer.set_exception(_for_a_person(error, request))
            return False
        self._turn(answer, request, engine)
        return True

    def _turn(self, answer: Answer[Any], request: Request[Any], engine: Engine) -> None:
        name = "measuring" if request.long else "looking"
        look = partial(self._look, name, answer, request, engine)
        self.workers[name].put(answer, "{place}.", look, request.kind)

    def _look(self, worker: str, answer: Answer[Any], request: Request[Any], engine: Engine) -> bool:
        if not answer.set_running_or_notify_cancel():
            return False
        answer.tell("Looking at the image.")
        self.measures.waited(worker, time.monotonic() - answer.asked)
        try:
            progress = {"progress": answer.report} if request.long else {}
            loaded = self._load_image(request)
            found = request.question(loaded, engine, view=request.view, **progress)
        except BaseException as error:
            if isinstance(error, ProcessDiedError) and isinstance(engine, KerasProcess):
                self.engines.drop(request.model)  # the next image gets a new process
            if not isinstance(error, GivenUpError):
                self.measures.failed(error)
            answer.set_exception(_for_a_person(error, request))
            return False
        self.measures.answered(worker, is_image=request.question is api.analyze)
        answer.set_result(found)
        return True

    def _load_image(self, request: Request[Any]) -> LoadedImage:
        key = (request.image, request.image_name)
        with self._reading:
            if key not in self._images:
                loaded = load_image(*key)
                with suppress(ValueError):  # too large to keep
                    self._images[key] = loaded
                return loaded
            return self._images[key]


def _for_a_person(error: BaseException, request: Request[Any]) -> BaseException:
    if isinstance(error, CaitVizError):
        return error
    traceback.print_exception(error)
    kind = type(error).__name__
    return CaitVizError(
        f"{request.image_name}: the model failed ({kind}: {one_line(str(error))}); "
        "try again, or choose a smaller model"
    )


def load_choice(
    choice: ModelChoice,
    engine: EngineName | None = None,
    precision: Precision = "float32",
    tell: Callable[[str], object] = print,
) -> Engine:
    """The network of a choice, ready to run.

    Args:
        choice: the model, whose weights are on this machine.
        engine: which engine, and no other.
        precision: type of the arithmetic.
        tell: gets a sentence where Keras runs the network although nobody asked for it.

    Raises:
        CheckpointError: the weights or the labels cannot be used, or have changed.
        EngineError: the memory has no room for the network, or the engine refuses it.
    """
    checkpoint = choice.checkpoint or resolve(choice.name, download=False, progress=False)
    # Another checkpoint may have other heads and classes than those on the page.
    if not checkpoint.unchanged:
        raise CheckpointError(
            f"{file_text(checkpoint.origin)}: has changed since the app was started, or is gone; start the "
            "app again"
        )
    checkpoint = checkpoint.at(choice.image_size)
    memory.require(checkpoint.name, checkpoint.config)
    loaded = load_engine(
        checkpoint, choice.labels, engine=engine, precision=precision, load_keras=KerasProcess, tell=tell
    )
    if choice.display_name:
        loaded.source = replace(loaded.source, name=choice.display_name)
    return loaded


def _key(choice: ModelChoice) -> tuple[Any, ...]:
    """What tells a network from all others: the choice, and the state of its checkpoint."""
    try:
        status = choice.checkpoint and choice.checkpoint.origin.stat()
    except OSError:
        status = None
    return (choice, status and (status.st_ino, status.st_size, status.st_mtime_ns))
