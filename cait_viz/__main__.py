"""`python -m cait_viz`, the same as `cait-viz`."""

from cait_viz.cli import entry

if __name__ == "__main__":
    entry()
