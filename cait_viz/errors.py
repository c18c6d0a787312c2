"""Every refusal: one line that names the thing, the wrong value and the way out, shown as it stands."""


class CaitVizError(Exception):
    """Base of every error that is meant for a person and not for a debugger."""


class ImageError(CaitVizError, ValueError):
    """An image that cannot be read or is refused."""


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
    """A folder of images that cannot be trained on, measured or looked at."""


class TrainingError(CaitVizError):
    """A training that cannot go on."""


class EngineError(CaitVizError):
    """An engine that is missing, or cannot run a network."""


class MemoryShortageError(EngineError):
    """A network that the memory has no room for.

    Args:
        message: the sentence for a person.
        missing: how many bytes are missing, about.
    """

    def __init__(self, message: str, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


class ProcessDiedError(CaitVizError):
    """A process of this program's own that ended before it was done."""


class ClusterError(CaitVizError):
    """A Ray cluster that cannot be reached, or cannot do the work."""
