"""Every refusal the program makes, each a sentence that a person can act on.

The text of an error names the thing, the value that was wrong and the way out, fits on one
line and is shown as it stands by the app and the command line.
"""


class CaitVizError(Exception):
    """Base of every error that is meant for a person and not for a debugger."""


class ImageError(CaitVizError, ValueError):
    """A picture that cannot be read or is refused."""


class CheckpointError(CaitVizError, ValueError):
    """A weights file that cannot be found, read or loaded into the network."""


class DownloadError(CheckpointError):
    """Weights that could not be fetched from the hub."""


class UnknownModelError(CaitVizError, ValueError):
    """A model name that is not in the registry."""


class SelectionError(CaitVizError, ValueError):
    """A block, head, style or other choice that does not exist."""


class OutputError(CaitVizError):
    """A file that cannot be written where it was asked for."""


class UsageError(CaitVizError):
    """Arguments that are no command."""


class TeacherError(CaitVizError, ValueError):
    """An ONNX file that cannot teach."""


class DatasetError(CaitVizError, ValueError):
    """A folder of pictures that cannot be trained on."""


class TrainingError(CaitVizError):
    """A training that cannot go on."""


class EngineError(CaitVizError):
    """An engine that is missing, or cannot run a network."""


class ProcessDiedError(CaitVizError):
    """A process of this program's own that ended before it was done."""


class WorkerDiedError(CaitVizError):
    """The model's process ended in the middle of a picture; it has been replaced."""
