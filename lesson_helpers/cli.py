"""The command ``./lesson``. What a command needs is imported when it is called: help comes at once."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from lesson_helpers import env_cli, paths, processes
from lesson_helpers.errors import LessonError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with its boxes, help takes twice as long
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Using Pixi environments on HTC systems: a lesson that runs for real, from a fresh clone.",
)
app.add_typer(env_cli.app, name="env")
STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
PYTEST_LIMIT = 60  # seconds for pytest to tidy up after Ctrl-C


class Owner:
    """The command as the owner of what it starts: however it ends, it leaves no process behind.

    The first Ctrl-C (SIGTERM and a closed terminal are the same) raises `KeyboardInterrupt` and lets the
    command tidy up; a second one kills.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.mark = ""

    def __enter__(self) -> "Owner":
        if ended := processes.end_leftovers():
            some = "1 process" if ended == 1 else f"{ended} processes"
            say(f"Ended {some} that an earlier call, which was killed, had left.")
        self.mark = processes.claim(anew=True)
        for number in STOPPING:
            # SIGHUP is ignored under nohup: the closed terminal is then not to end this
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._stop)
        return self

    def __exit__(self, *error) -> None:
        processes.end_owned(self.mark)
        processes.end_leftovers()  # an owner inside of this one that had to be killed

    def _stop(self, number: int, frame) -> None:
        if self.signal:
            processes.end_owned(self.mark, seconds=0)
            os._exit(128 + number)
        self.signal = number
        raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code after a signal: 128 and its number, as in a shell."""
        return 128 + self.signal


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NN", help="Notebooks, by number or name; all where none is named."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="A parameter; for several, -p each."),
    ] = None,
    limit: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="For each notebook.")] = None,
) -> None:
    """Run the notebooks for real; a table says what ran."""
    from lesson_helpers import notebooks, parameters, report
    from lesson_helpers.progress import Progress

    wanted = parameters.split(given or [])
    with Owner() as owner:
        with Progress(terminal()) as progress:
            done = notebooks.run(
                names or (),
                wanted,
                limit=limit or notebooks.LIMIT,
                watch=progress.show,
            )
        removed = report.prune(paths.state() / "runs")
    terminal().print(done)
    for one in done.notebooks:
        if one.result == "failed":
            where = f" in cell {one.cell}: {one.line}" if one.cell else ""
            say(f"\n{one.name} failed{where}", style="red")
            say(f"{one.error}\nExecuted copy: {done.folder / one.name}.ipynb")
    say(f"\nReport: {done.folder / report.FILE}")
    if removed:
        say(
            f"Removed {removed} older {'run' if removed == 1 else 'runs'}; the newest {report.KEPT} are kept."
        )
    if done.result == "interrupted":
        say("Interrupted; all that was started has ended.", style="yellow")
        leave(owner.code)
    raise typer.Exit(int(done.result != "passed"))


@app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="PYTEST_ARGUMENT", help="Such as tests/test_cli.py -x.")
    ] = None,
) -> None:
    """Run the tests; the last lines say what was skipped."""
    with Owner() as owner:
        command = [sys.executable, "-P", "-m", "pytest", "--rootdir", str(paths.root()), *(arguments or [])]
        # a session of its own: Ctrl-C reaches it from here, and once
        child = subprocess.Popen(command, start_new_session=True)
        try:
            code = child.wait()  # without a limit: each test has its own
        except KeyboardInterrupt:
            code = owner.code
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PYTEST_LIMIT)
    raise typer.Exit(code if code >= 0 else 128 - code)


@app.command()
def site(
    folder: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="Whose outputs; by default the last run's.")
    ] = None,
) -> None:
    """Build the site with the outputs of the last run."""
    from lesson_helpers import site as pages

    say(f"The site: {pages.build(folder.resolve() if folder else None) / 'index.html'}")


@app.command()
def lab(
    browser: Annotated[
        bool | None, typer.Option(help="Open a browser; by default where there is a screen.")
    ] = None,
) -> None:
    """Open the notebooks in JupyterLab, on this machine."""
    from lesson_helpers import lab as jupyterlab

    with Owner() as owner:
        server = jupyterlab.start(jupyterlab.has_screen() if browser is None else browser)
        say(f"JupyterLab: {server.url}\nStop it with Ctrl-C. What it logs: {server.log}")
        try:
            code = server.process.wait()
        except KeyboardInterrupt:
            say("Stopping JupyterLab and all that its notebooks started.")
            code = owner.code
            server.stop()
    raise typer.Exit(code)


@app.command()
def doctor() -> None:
    """Say what this machine has and what will run with it."""
    from lesson_helpers import doctor as machine

    found = machine.examine()
    terminal().print(found)
    raise typer.Exit(int(not found.runs))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    name: Annotated[str | None, typer.Argument(help="Which; all of them where none is named.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="For it, such as --seeds 3.")] = None,
) -> None:
    """Measure time and memory; takes minutes."""
    scripts = {script.stem: script for script in sorted((paths.root() / "benchmarks").glob("*.py"))}
    if name and name not in scripts:
        what = f"There is no benchmark {name!r}."
        raise LessonError(what, "./lesson bench", f"Use one of: {', '.join(scripts)}.")
    code = 0
    with Owner() as owner:
        for script in [scripts[name]] if name else scripts.values():
            say(f"$ python benchmarks/{script.name} {' '.join(arguments or [])}".rstrip())
            try:
                code |= subprocess.call([sys.executable, "-P", str(script), *(arguments or [])])
            except KeyboardInterrupt:
                code = owner.code
                break
    raise typer.Exit(code)


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    workspace: Annotated[bool, typer.Option("--workspace", help="Your workspace too.")] = False,
) -> None:
    """Remove what the kit made; your workspace stays."""
    from lesson_helpers import cleaning

    plan = cleaning.plan(workspace)
    say(str(plan))
    if plan.nothing:
        return
    if not yes and not typer.confirm("Stop and remove these?"):
        raise typer.Exit(1)
    # the environment that this runs in goes too: from here on nothing may be imported
    print(cleaning.carry_out(plan))


def terminal():
    """Return the Rich console; a log file gets lines of 140 characters."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    return console


def say(text: str, style: str = "") -> None:
    """Print text as it is: no markup, and no line break inside of a path."""
    terminal().print(text, style=style, markup=False, soft_wrap=True)


def leave(code: int) -> None:
    """Exit at once, without waiting for a thread that was cut off."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the command; a mistake that a person can mend is three lines on stderr and exit code 1 or 2."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by the caller
        stream.reconfigure(errors="replace")  # under LC_ALL=C there is no ✓
    try:
        sys.exit(app(prog_name="./lesson", standalone_mode=False))
    except LessonError as error:
        sys.exit(str(error))
    except typer.Abort:
        what = "It was stopped: a question got no answer, or Ctrl-C was pressed."
        sys.exit(str(LessonError(what, "the standard input", "Call it in a terminal, or see its --help.")))
    except OSError as error:  # a full disk, a folder of somebody else's
        what = f"A file can't be read or written: {error.strerror or error}."
        where = str(error.filename or paths.root())
        sys.exit(str(LessonError(what, where, "Make room, or make it yours; then call ./lesson again.")))
    except Exception as error:
        # typer's usage errors, known by what they can do: newer typers bring a click of their own along
        if not hasattr(error, "format_message"):
            raise
        print(_usage(error), file=sys.stderr)
        sys.exit(error.exit_code)


def _usage(error) -> str:
    """Return what is wrong with a call, in three parts; the help alone where nothing was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error.ctx.get_help()
    command = error.ctx.command_path if error.ctx else "./lesson"
    fix = f"Look at what there is: {command} --help"
    return str(LessonError(error.format_message(), f"the call of {command}", fix))
