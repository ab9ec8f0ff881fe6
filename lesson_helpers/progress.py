"""How far a run is: a live line for each notebook in a terminal, plain lines in a log."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lesson_helpers.notebooks import Execution

EVERY = 30  # seconds between two plain lines


class Progress:
    """Shows executions; to be used in a ``with``, which ends the live display.

    Parameters
    ----------
    console : rich.console.Console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lines: dict[str, Text] = {}
        self.said: dict[str, float] = {}
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()

    def show(self, execution: Execution) -> None:
        """Show how far an execution is; called often."""
        name = execution.path.stem
        if self.live:
            self.lines[name] = Text(self._words(execution), "", no_wrap=True, overflow="ellipsis")
            self.lines[name].stylize("red" if execution.error else "green" if execution.done else "")
            self.live.update(Group(*self.lines.values()), refresh=True)
        elif execution.done or time.monotonic() - self.said.get(name, -EVERY) >= EVERY:
            self.said[name] = time.monotonic()
            self.console.print(self._words(execution), markup=False, soft_wrap=True)

    def _words(self, execution: Execution) -> str:
        place = f"cell {execution.cell} of {execution.cells}"
        if execution.done:
            outcome = f"failed in {place}" if execution.error else "passed"
            return f"{execution.path.stem}: {outcome}, {execution.seconds:.1f} s"
        if not execution.cell:
            return f"{execution.path.stem}: starting"
        doing = f": {execution.line}" if self.live else ""
        return f"{execution.path.stem}: {place}, {execution.seconds:.0f} s{doing}"
