"""Import TensorFlow without its log lines.

Its C++ side writes to file descriptor 2 before any setting of its own takes effect, so that
descriptor itself is turned away for as long as the import lasts.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def standard_error_held() -> Iterator[None]:
    """Keep what is written to descriptor 2 from the terminal; show it after all if the block fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def import_tensorflow() -> None:
    """Import TensorFlow and Keras silently, Keras on TensorFlow whatever else a person uses it with."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with standard_error_held():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
