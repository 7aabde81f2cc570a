"""completion: the script that makes a shell complete synapsectl's commands, names and ids."""

import os
from typing import Annotated, Literal

import typer

from synapsed.cli.common import Cli, command

PROGRAM = "synapsectl"
VARIABLE = "_SYNAPSECTL_COMPLETE"
"""The shell's script sets it; Typer then answers completions and runs no command."""


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    command(app, "completion")(completion)


def prepare() -> None:
    """Let Typer answer, where a shell asks what could stand at the cursor."""
    if VARIABLE in os.environ:
        from typer import completion as typer_completion  # noqa: PLC0415

        typer_completion.completion_init()  # type: ignore[attr-defined]


def completion(
    cli: Cli, shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL")]
) -> None:
    """Print the completion script for bash, zsh or fish.

    bash: eval "$(synapsectl completion bash)"
    """
    from typer import completion as typer_completion  # noqa: PLC0415

    script = typer_completion.get_completion_script(  # type: ignore[attr-defined]
        prog_name=PROGRAM, complete_var=VARIABLE, shell=shell
    )
    if cli.json:
        cli.done({"shell": shell, "script": script}, lambda _out: None)
    else:
        typer.echo(script)
