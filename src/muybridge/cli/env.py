"""`muybridge env`: what a bug report needs."""

from __future__ import annotations

import json as json_module

from muybridge.cli.app import app


@app.command
def env(*, json: bool = False) -> None:
    """Versions, machine, libraries and cache folders: what a bug report needs. The home folder is written as ~.

    Args:
        json: print as JSON.
    """
    from muybridge.report.environment import environment

    groups = environment()
    if json:
        print(json_module.dumps(groups, indent=2, ensure_ascii=False))
        return
    # Plain lines, which survive being pasted into an issue.
    for group, facts in groups.items():
        print(group)
        for name, value in facts.items():
            print(f"  {name:16} {value}")
