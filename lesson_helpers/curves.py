"""Loss and accuracy of trainings as a picture that reads well in JupyterLab, on the site and aloud.

The picture is SVG inside of HTML: text and lines take the colour of the page, light or dark. Each training
has its own colour (after Okabe and Ito's set, which colour-blind people can tell apart, with a contrast of at
least 3 to white and to near-black), and its own dashes and marks, so that nothing depends on colours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B86893")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT = 300, 190  # of a panel, in units of the picture
LEFT, TOP, ACROSS, DOWN = 42, 24, 250, 120  # where in a panel its frame is, and its size


@dataclass(frozen=True, repr=False)
class Curves:
    """How trainings went, or one that still goes on.

    Parameters
    ----------
    runs : tuple of (str, tuple of dict)
        Each training's name and the lines of its ``metrics.jsonl``.
    running : bool
        Whether it still goes on.
    """

    runs: tuple[tuple[str, tuple[dict, ...]], ...]
    running: bool = False

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {progress(lines, self.running)}" if name else progress(lines, self.running)
            for name, lines in self.runs
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = "".join(self._caption(number) for number in range(len(self.runs)))
        shown = [lines for _, lines in self.runs if lines]
        if not shown:
            return words
        panels = (
            self._panel(0, "loss", 0, _ceiling(line["loss"] for lines in shown for line in lines)),
            self._panel(1, "accuracy", _floor(line["accuracy"] for lines in shown for line in lines), 1),
        )
        label = escape(f"Two curves, loss and accuracy against the pictures seen. {self}", quote=True)
        svg = (
            f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label=\"{label}\" "
            f"viewBox='0 0 {2 * WIDTH} {HEIGHT}' width='{2 * WIDTH}' style='max-width: 100%; height: auto' "
            f"font-family='sans-serif' font-size='11' fill='currentColor'>{''.join(panels)}</svg>"
        )
        return f"<div>{svg}{words}<p><small>Lines: training pictures. Marks: test pictures.</small></p></div>"

    def _caption(self, number: int) -> str:
        name, lines = self.runs[number]
        words = progress(lines, self.running)
        bar = ""
        if self.running and lines:
            done = 100 * lines[-1]["step"] / lines[-1]["steps"]
            bar = f"<progress max='100' value='{done:.0f}' aria-label='Progress of the training'></progress> "
        key = (
            f"<svg aria-hidden='true' width='34' height='10'>{_line([(0, 5), (34, 5)], number)}"
            f"{_mark(17, 5, number)}</svg> <strong>{escape(name)}</strong>: "
            if name
            else ""
        )
        return f"<p>{bar}{key}{escape(words)}</p>"

    def _panel(self, place: int, what: str, lowest: float, highest: float) -> str:
        furthest = max(_last_picture(lines) for _, lines in self.runs)

        def point(line: dict) -> tuple[float, float]:
            up = (min(line[what], highest) - lowest) / (highest - lowest)
            return LEFT + ACROSS * line["pictures"] / furthest, TOP + DOWN * (1 - up)

        parts = [f"<g transform='translate({place * WIDTH} 0)'>"]
        parts.append(f"<text x='{LEFT}' y='14' font-weight='bold'>{what}</text>")
        for share in (0, 0.5, 1):
            y, x = TOP + DOWN * (1 - share), LEFT + ACROSS * share
            value = lowest + share * (highest - lowest)
            label = f"{100 * value:.0f} %" if what == "accuracy" else f"{value:.3g}"
            parts.append(
                f"<path d='M{LEFT} {y:.1f}h{ACROSS}' stroke='currentColor' stroke-opacity='0.25'/>"
                f"<text x='{LEFT - 4}' y='{y + 4:.1f}' text-anchor='end'>{label}</text>"
                f"<text x='{x:.1f}' y='{TOP + DOWN + 15}' text-anchor='{'end' if share == 1 else 'middle'}'>"
                f"{share * furthest / 1000:,.0f}</text>"
            )
        middle = LEFT + ACROSS / 2
        parts.append(
            f"<text x='{middle}' y='{HEIGHT - 16}' text-anchor='middle'>thousand pictures seen</text>"
        )
        for number, (_, lines) in enumerate(self.runs):
            parts.append(_line([point(line) for line in lines if line["set"] == "train"], number))
            parts += [_mark(*point(line), number) for line in lines if line["set"] == "test"]
        return "".join(parts) + "</g>"


def progress(lines: tuple[dict, ...], running: bool) -> str:
    """Say in a sentence how far a training is: step, pictures a second, seconds left, accuracy.

    >>> line = {"step": 5, "steps": 20, "pictures": 640, "seconds": 0.5, "set": "train"}
    >>> progress((line,), running=True)
    'step 5 of 20 (25 %), 1,280 pictures a second, 2 seconds left.'
    """
    if not lines:
        return "starting; PyTorch takes a few seconds to load." if running else "no metrics yet."
    last = lines[-1]
    tested = [line for line in lines if line["set"] == "test"]
    right = f"{100 * tested[-1]['accuracy']:.2f} % of the test digits right" if tested else ""
    rate = f"{last['pictures'] / max(last['seconds'], 1e-3):,.0f} pictures a second"
    if running:
        left = last["seconds"] * (last["steps"] - last["step"]) / last["step"]
        step = f"step {last['step']} of {last['steps']} ({100 * last['step'] // last['steps']} %)"
        return ", ".join(filter(None, (step, rate, f"{left:.0f} seconds left", right))) + "."
    end = "" if last["step"] == last["steps"] else f"ended at step {last['step']} of {last['steps']}"
    took = f"{last['seconds']:.1f} seconds"
    return ", ".join(filter(None, (right or f"loss {last['loss']:.3f}", end, took, rate))) + "."


def _last_picture(lines: tuple[dict, ...]) -> float:
    """Return where a training will end, in pictures: what one step sees, times the steps."""
    return lines[-1]["pictures"] / lines[-1]["step"] * lines[-1]["steps"] if lines else 1


def _ceiling(losses: Iterable[float]) -> float:
    """Return a round number not below the losses, the first of which may be huge."""
    highest = min(max(losses), 2.5)
    return next(limit for limit in (0.1, 0.2, 0.5, 1, 1.5, 2, 2.5) if highest <= limit)


def _floor(accuracies: Iterable[float]) -> float:
    """Return tens of percent not above the accuracies."""
    return min(int(10 * min(accuracies)) / 10, 0.9)


def _line(points: list[tuple[float, float]], number: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    pen = f"stroke='{colour}' stroke-width='2' stroke-dasharray='{dashes}'"
    return f"<polyline points='{path}' fill='none' {pen}/>"


def _mark(x: float, y: float, number: int) -> str:
    """Return a circle, a square, a diamond or a triangle."""
    paths = (
        "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "M-4 -4h8v8h-8z",
        "M0 -5.5l5 5.5l-5 5.5l-5 -5.5z",
        "M0 -5l5 9h-10z",
    )
    colour = COLOURS[number % len(COLOURS)]
    return f"<path transform='translate({x:.1f} {y:.1f})' d='{paths[number % len(paths)]}' fill='{colour}'/>"
