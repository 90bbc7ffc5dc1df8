"""The command line, a file for each family of commands.

Everything heavy is imported inside the commands, so that `--help` and mistakes answer at once.
"""

from inspect import isfunction

from muybridge.cli import (  # noqa: F401 - their commands register themselves
    benchmark,
    cache,
    completion,
    data,
    env,
    evaluating,
    explaining,
    exporting,
    models,
    reporting,
    serving,
    sweep,
    training,
    use,
)
from muybridge.cli.app import app, main, run, split_fields
from muybridge.cli.reflow import reflow_command

__all__ = ["app", "main", "run", "split_fields"]

for part in (app, data.data_app):
    for name in part:
        if isfunction(command := part[name].default_command):  # --help and --version are methods
            reflow_command(command)
