"""What the components send to the browser: their scripts and styles, and images."""

import base64
import io
from pathlib import Path

from PIL import Image

_FOLDER = Path(__file__).parent
_QUALITY = 88


def text_of(name: str) -> str:
    """A script or a style sheet of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def data_address(image: Image.Image) -> str:
    """An image as an address that holds it, so that it comes with the component and is never missing."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
