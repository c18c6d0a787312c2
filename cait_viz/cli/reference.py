"""Every command with the docstring of its own, which imports all of them: for the reference of the commands.

`cyclopts generate-docs` and the site of the documentation read it; the command line itself does not.
"""

from cait_viz.cli.main import application

commands = application(None)
for name in commands:
    _ = commands[name]  # imported here: what is not imported yet has no summary
