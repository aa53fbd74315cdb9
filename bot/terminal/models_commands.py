"""`guildllama models ...`: the known models, and fetching and removing them. `bot.hub` knows how."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from bot.hub.catalogue import CATALOGUE, CatalogueModel
from bot.hub.fit import Fit, best_fit, memory_needed, recommended
from bot.hub.machine import Machine, this_machine
from bot.hub.resolve import gigabytes, known_model, model_store
from bot.hub.store import ModelStore
from bot.settings import load_settings
from bot.terminal import help_texts
from bot.terminal.output import print_json, print_list

models_app = typer.Typer(
    help="Models that are known to work: what fits this machine, fetching and removing them.",
    epilog=help_texts.MODELS,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str, typer.Argument(help="The model's name, as `guildllama models` shows it.")]
_COLUMNS = (
    "  name",
    "size",
    "download\nGB",
    "memory GB\n4/8/16 bits",
    "runs on",
    "languages",
    "licence",
    "here",
)


@models_app.callback()
def models(ctx: typer.Context) -> None:
    """Without a command, the list."""
    if ctx.invoked_subcommand is None:
        list_command()


@models_app.command("list")
def list_command(
    as_json: AsJson = False,
) -> None:
    """The known models, from the weakest to the strongest, and what fits this machine."""
    store, machine = model_store(load_settings()), this_machine()
    best = recommended(machine)
    if as_json:
        print_json({"machine": asdict(machine), "models": [_data(model, machine, store, best) for model in CATALOGUE]})
        return
    left_out = print_list(
        f"This machine: {_machine(machine)}",
        _COLUMNS,
        [_row(model, machine, store, best) for model in CATALOGUE],
        right=("size", "download\nGB", "memory GB\n4/8/16 bits"),
        optional=("licence", "languages"),
    )
    if left_out:
        sys.stdout.write(f"A wider window or --json also shows: {', '.join(reversed(left_out))}\n")
    sys.stdout.write("* recommended here: `guildllama models pull NAME`, then GUILDLLAMA_MODEL=NAME\n")
    if machine.gpus:
        sys.stdout.write("Other bits than the file's: GUILDLLAMA_QUANTIZE=none (16 bits), int8 or int4\n")
        sys.stdout.write("Several GPUs: GUILDLLAMA_GPUS\n")


@models_app.command("pull")
def pull_command(name: Name) -> None:
    """Fetch a model from the Hugging Face hub, or go on where an earlier attempt stopped."""
    model, store = known_model(name), model_store(load_settings())
    pulled = store.pulled(model)
    if pulled is None:
        from bot.hub.download import pull  # huggingface_hub takes a moment to import

        _say(f"Pulling {model.name} from {model.repo} ({gigabytes(model)}, licence {model.licence})")
        try:
            pulled = pull(model, store, _say)
        except KeyboardInterrupt:
            _say(f"Stopped. What has come is kept: `guildllama models pull {model.name}` goes on.")
            raise typer.Exit(130) from None
    else:
        _say(f"{model.name} is here already.")
    sys.stdout.write(f"{store.path(pulled)}\n")
    fit = best_fit(model, this_machine())
    _say(f"GUILDLLAMA_MODEL={model.name}{fit.settings if fit else ''} uses it.")


@models_app.command("remove")
def remove_command(name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a model's file, or the part of it that has come."""
    model, store = known_model(name), model_store(load_settings())
    if not store.has_files(model.name):
        sys.stdout.write(f"{model.name} is not here.\n")
        return
    size = f"{store.bytes_on_disk(model.name) / 1e9:.1f} GB in {store.folder_of(model.name)}"
    if not yes and not typer.confirm(f"Delete {model.name} ({size})?", default=False):
        sys.stdout.write("Nothing was deleted.\n")
        raise typer.Exit(1)
    store.remove(model)
    sys.stdout.write(f"Deleted {model.name} ({size}).\n")


@models_app.command("path")
def path_command(name: Name) -> None:
    """Print where a pulled model is."""
    model, store = known_model(name), model_store(load_settings())
    pulled = store.pulled(model)
    if pulled is None:
        _say(f"guildllama: {model.name} is not here; `guildllama models pull {model.name}` fetches it.")
        raise typer.Exit(1)
    sys.stdout.write(f"{store.path(pulled)}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _row(model: CatalogueModel, machine: Machine, store: ModelStore, best: CatalogueModel | None) -> tuple[str, ...]:
    memory = "/".join(_short(memory_needed(model, bits)) for bits in (4, 8, 16))
    active = f"-A{model.active:g}B" if model.active else ""
    return (
        f"{'*' if model is best else ' '} {model.name}", f"{model.parameters:g}B{active}",
        ("" if model.pinned else "~") + _short(model.size), memory,
        _place(best_fit(model, machine)), model.languages, model.licence, "yes" if store.pulled(model) else "",
    )  # fmt: skip


def _short(size: int) -> str:
    """Bytes in GB, with a decimal where it says something."""
    return f"{size / 1e9:.1f}" if size < 9.95e9 else f"{size / 1e9:.0f}"


def _data(model: CatalogueModel, machine: Machine, store: ModelStore, best: CatalogueModel | None) -> dict[str, Any]:
    fit = best_fit(model, machine)
    return {
        "name": model.name,
        "repo": model.repo,
        "revision": model.revision,
        "file": None if model.file is None else asdict(model.file),
        "licence": model.licence,
        "languages": model.languages,
        "parameters": round(model.parameters * 1e9),
        "bytes": model.size,
        "memory": {str(bits): memory_needed(model, bits) for bits in (4, 8, 16)},
        "fit": None if fit is None else asdict(fit) | {"settings": fit.settings.split()},
        "recommended": model is best,
        "pulled": store.pulled(model) is not None,
    }


def _place(fit: Fit | None) -> str:
    if fit is None:
        return "too large"
    where = fit.place if fit.gpus == 1 else f"{fit.gpus} GPUs"
    return f"{where} {fit.bits}-bit" + (", slow" if fit.slow else "")


def _machine(machine: Machine) -> str:
    memory = f"{machine.memory / 1e9:.0f} GB of memory" if machine.memory else "memory unknown"
    gpus = [f"{gpu.name} ({gpu.memory / 1e9:.0f} GB)" for gpu in machine.gpus]
    memory += f", {machine.cores} core{'s' if machine.cores > 1 else ''}"
    return f"{memory}, {', '.join(gpus) if gpus else 'no NVIDIA GPU'}"
