"""generate, model new|eval: text from a model, fresh weights, and how well a model does."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.model import ModelName, model
from synapsed.cli.names import model_cid
from synapsed.control import models
from synapsed.training import said

if TYPE_CHECKING:
    from synapsed.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "generate")(generate)


def generate(
    cli: Cli,
    name: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the text goes on from.")],
    *,
    tokens: Annotated[int, typer.Option(min=1, max=65536, help="At most so many.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="0 takes the likeliest token each time.")
    ] = 0.8,
    seed: Annotated[
        int, typer.Option(min=0, max=said.MAX_SEED, help="The same one draws the same text.")
    ] = 0,
) -> None:
    """Text from a model that is here; of one in training, from its newest ratified checkpoint."""
    asked = said.GenerateRequest(
        prompt=prompt, max_tokens=tokens, temperature=temperature, seed=seed
    )
    show = _ignore if cli.json else _at_once
    with cli.client() as client:
        path = f"/v1/models/{model_cid(client, name)}/generate"
        found = client.talk(path, said.Generated, asked, show)
    cli.done(found, lambda out: out.line(""))


def _at_once(text: str) -> None:
    from synapsed.cli.output import clean_text  # noqa: PLC0415

    sys.stdout.write(clean_text(text))
    sys.stdout.flush()


def _ignore(_: str) -> None:
    """JSON is one document, at the end."""


@command(model, "new")
def new(
    cli: Cli,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="tiny-moe")],
    name: Annotated[str, typer.Option(help="Its name; else the kind's.")] = "",
    seed: Annotated[int, typer.Option(min=0, max=said.MAX_SEED, help="Of its weights.")] = 0,
) -> None:
    """Make a model with fresh weights, import and announce it."""
    asked = said.NewModelRequest(kind=kind, seed=seed, name=name)
    with cli.client() as client:
        found = cli.work(client, f"make {kind}", "/v1/models/new", models.ImportResult, asked)
    cli.done(found, lambda out: out.pairs([("cid", found.cid), ("size", _size(found.size))]))


@command(model, "eval")
def eval_(
    cli: Cli,
    name: ModelName,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", parser=path_of, help="The text.")],
    windows: Annotated[
        int, typer.Option(min=0, max=1 << 20, help="Of it, evenly spread; 0 is all.")
    ] = 64,
) -> None:
    """A model's loss on a text; of one in training, its newest ratified checkpoint's."""
    asked = said.EvaluateRequest(data=str(data.absolute()), windows=windows)
    with cli.client() as client:
        path = f"/v1/models/{model_cid(client, name)}/evaluate"
        found = cli.work(client, f"evaluate {name}", path, said.Evaluated, asked)
    cli.done(found, lambda out: _evaluated(out, found))


def _evaluated(out: "Output", found: said.Evaluated) -> None:
    out.pairs(
        [
            ("model", found.model),
            ("loss", f"{found.loss:.4f} nats a token"),
            ("95 %", f"{found.low:.4f} to {found.high:.4f}"),
            ("measured", f"{found.windows} windows of {found.tokens // found.windows} tokens"),
            ("took", f"{found.seconds:.1f} s"),
        ]
    )


def _size(value: int) -> str:
    from synapsed.cli.output import size  # noqa: PLC0415

    return size(value)
