"""The sizes of images and of a network's input."""

# Side of a square, or height and width, in pixels.
ImageSize = int | tuple[int, int]


def image_shape(image_size: ImageSize) -> tuple[int, int]:
    """Height and width in pixels."""
    return image_size if isinstance(image_size, tuple) else (image_size, image_size)


def size_text(image_size: ImageSize) -> str:
    """An input's size for a sentence: its side where it is a square, else "width × height"."""
    height, width = image_shape(image_size)
    return f"{width}" if width == height else f"{width} × {height}"
