"""The commands ``./lesson env …``: see into the environments of a workspace, each beside Pixi's own command.

What a command needs is imported when it is called: help comes at once.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See into environments: what, how large, why, and where.",
)

Where = Annotated[
    Path | None,
    typer.Option(
        "--in", metavar="FOLDER", help="The folder of pixi.toml and pixi.lock; by default the kit's."
    ),
]
Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Such as cpu or gpu.")]
Platform = Annotated[
    str, typer.Option(metavar="NAME", help="Such as linux-64; by default this machine's, or the first.")
]
Cuda = Annotated[
    str, typer.Option(metavar="VERSION", help="The CUDA that the machine's driver offers: 12.4.")
]


@app.command("list")
def list_(where: Where = None) -> None:
    """List the environments and their sizes (pixi info)."""
    from lesson_helpers import environments

    _print(environments.overview(_folder(where) / "pixi.lock"))


@app.command()
def show(environment: Environment, platform: Platform = "", where: Where = None) -> None:
    """List an environment's packages (pixi list)."""
    from lesson_helpers import lens

    _print(lens.packages(_part(where, environment, platform), _installed(where, environment, platform)))


@app.command()
def largest(
    environment: Environment,
    platform: Platform = "",
    number: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
    where: Where = None,
) -> None:
    """List the largest (pixi list --sort-by size)."""
    from lesson_helpers import lens

    part = _part(where, environment, platform)
    _print(lens.largest(part, number, _installed(where, environment, platform)))


@app.command()
def licences(environment: Environment, platform: Platform = "", where: Where = None) -> None:
    """Group packages by licence (pixi list --fields license)."""
    from lesson_helpers import lens

    _print(lens.licences(_part(where, environment, platform)))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="An environment, or a lock file.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another.")],
    platform: Platform = "",
    number: Annotated[int, typer.Option("-n", min=1, help="How many packages to show.")] = 1000,
    where: Where = None,
) -> None:
    """Compare environments or lock files (git diff pixi.lock)."""
    from lesson_helpers import differences, lockfiles

    files = [name for name in (first, second) if name.endswith(".lock")]
    if len(files) == 2:
        sides = [lockfiles.read(name) for name in files]
    else:
        sides = [_part(where, name, platform) for name in (first, second)]
    _print(differences.between(*sides).table(number))


@app.command()
def why(
    package: Annotated[str, typer.Argument(help="Such as libmagma, or __cuda.")],
    environment: Environment,
    platform: Platform = "",
    where: Where = None,
) -> None:
    """Say who needs a package (pixi tree --invert)."""
    from lesson_helpers import lens

    _print(lens.why(_folder(where) / "pixi.toml", _part(where, environment, platform), package))


@app.command()
def check(where: Where = None) -> None:
    """Say why the lock does not fit (pixi lock --check)."""
    from lesson_helpers import lockcheck

    verdict = lockcheck.check(_folder(where) / "pixi.toml", _folder(where) / "pixi.lock")
    _print(verdict)
    raise typer.Exit(int(not verdict.fits))


@app.command()
def solve(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC", help="Such as pytorch 'python 3.13.*'.")],
    platform: Platform = "",
    cuda: Cuda = "",
    where: Where = None,
) -> None:
    """Solve for packages, or say what is in the way (pixi add)."""
    from lesson_helpers import lockfiles, platforms, solver

    declared = {"__cuda": cuda} if cuda else {}
    machine = platforms.declare(None, platforms.known(platform or lockfiles.this_subdir()), declared)
    _print(solver.solve(specs, machine, _folder(where) / "pixi.lock"))


@app.command()
def explain(environment: Environment, platform: Platform = "", cuda: Cuda = "", where: Where = None) -> None:
    """Solve an environment, or say what is in the way (pixi lock)."""
    from lesson_helpers import solver

    folder = _folder(where)
    virtual = {"cuda": cuda} if cuda else {}
    _print(solver.explain(folder / "pixi.toml", environment, platform, known=folder / "pixi.lock", **virtual))


@app.command()
def fits(
    environment: Environment,
    platform: Platform = "",
    driver: Annotated[str, typer.Option(metavar="VERSION", help="Of the NVIDIA driver: 535.104.")] = "",
    compute: Annotated[str, typer.Option(metavar="X.Y", help="The GPU's compute capability: 7.5.")] = "",
    glibc: Annotated[str, typer.Option(metavar="VERSION", help="Of the C library: 2.28.")] = "",
    where: Where = None,
) -> None:
    """Say whether it runs here, or on a machine you describe."""
    from lesson_helpers import machines

    part = _part(where, environment, platform)
    given = machines.Machine(driver, compute, glibc, part.platform.subdir)
    fit = machines.fits(part, given if driver or compute or glibc else machines.here())
    _print(fit)
    raise typer.Exit(int(not fit.runs))


def _folder(where: Path | None) -> Path:
    from lesson_helpers import paths

    return paths.inside(where) if where else paths.root()


def _part(where: Path | None, environment: str, platform: str):
    from lesson_helpers import lockfiles

    return lockfiles.read(_folder(where) / "pixi.lock").part(environment, platform)


def _installed(where: Path | None, environment: str, platform: str) -> Path | None:
    """Return where the environment is installed, for the sizes on disk; None where it is not."""
    prefix = _folder(where) / ".pixi" / "envs" / environment
    return prefix if not platform and any(prefix.glob("conda-meta/*.json")) else None


def _print(result) -> None:
    """Print a table; a log file gets lines of 140 characters."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    console.print(result)
