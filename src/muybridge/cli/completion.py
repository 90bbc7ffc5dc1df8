"""`muybridge completion SHELL`: the script by which a shell completes commands, options and choices."""

from __future__ import annotations

from typing import Literal

from muybridge.cli.app import app


@app.command
def completion(shell: Literal["bash", "zsh", "fish", "powershell"]) -> int:
    """Print the script by which a shell completes commands, options and choices (docs/install.md).

    Args:
        shell: which one.
    """
    print(app.generate_completion(shell=shell))
    return 0
