"""See where a CaiT vision transformer looks."""

__version__ = "0.1.0"
