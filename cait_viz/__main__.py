"""`python -m cait_viz`, the same as `cait-viz`."""

from cait_viz.cli.main import entry

if __name__ == "__main__":
    entry()
