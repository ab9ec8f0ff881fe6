"""What a trained network said about the test pictures: right and wrong, digit by digit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesson_helpers.errors import LessonError
from lesson_helpers.tables import Table

DIGITS = range(10)


@dataclass(frozen=True, repr=False, eq=False)
class Predictions:
    """The content of a ``predictions.npz``.

    Parameters
    ----------
    labels : numpy.ndarray
        What each test picture is, 0 to 9; n of them.
    said : numpy.ndarray
        What the network said, 0 to 9.
    sure : numpy.ndarray
        The probability that it gave to that, 0 to 1.
    """

    labels: np.ndarray
    said: np.ndarray
    sure: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """The numbers of the pictures that it got wrong, the surest first."""
        wrong = np.flatnonzero(self.said != self.labels)
        return wrong[np.argsort(-self.sure[wrong], kind="stable")]

    @property
    def counts(self) -> np.ndarray:
        """The confusion matrix: how often a digit (row) was taken for a digit (column), 10 × 10."""
        return np.bincount(10 * self.labels + self.said, minlength=100).reshape(10, 10)

    def __str__(self) -> str:
        return f"{len(self.wrong)} of {len(self.labels):,} test digits are wrong."

    __repr__ = __str__

    def by_digit(self) -> Table:
        """List for each digit how many were right and what it was most often taken for."""
        rows = []
        for digit, row in enumerate(self.counts):
            others = np.where(np.arange(10) == digit, 0, row)
            most = int(others.argmax())
            taken = f"{most} ({others[most]} times)" if others[most] > 1 else f"{most} (once)"
            share = f"{100 * row[digit] / max(row.sum(), 1):.2f} %"
            rows.append((str(digit), str(row.sum()), share, taken if others[most] else "nothing else"))
        return Table(("digit", "pictures", "right", "most often taken for"), tuple(rows))

    def confusion(self) -> "Confusion":
        """Count how often each digit was taken for each other."""
        return Confusion(self.counts)


@dataclass(frozen=True, repr=False, eq=False)
class Confusion:
    """A confusion matrix, shown as a table; the more often, the more colour behind the number."""

    counts: np.ndarray

    def table(self) -> Table:
        """Return it as a table of words: a row for what a digit is, a column for what was said."""
        rows = tuple((str(digit), *map(str, row)) for digit, row in enumerate(self.counts))
        return Table(("is a", *(f"said {digit}" for digit in DIGITS)), rows)

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mistakes = self.counts * (1 - np.eye(10, dtype=int))
        most = max(int(mistakes.max()), 1)
        head = "".join(
            f"<th scope='col' style='text-align: right; padding: 0.1em 0.5em'>{digit}</th>"
            for digit in DIGITS
        )
        body = ""
        for digit in DIGITS:
            cells = ""
            for said in DIGITS:
                count = int(self.counts[digit, said])
                # half transparent at most, so that the number stands out on a light and on a dark page
                colour = "0, 158, 115, 0.25" if said == digit else f"213, 94, 0, {0.5 * count / most:.2f}"
                shown = count or "<span aria-hidden='true'>·</span>"
                style = f"text-align: right; padding: 0.1em 0.5em; background: rgba({colour})"
                cells += f"<td style='{style}'>{shown}</td>"
            body += f"<tr><th scope='row'>{digit}</th>{cells}</tr>"
        caption = "Rows: what the digit is. Columns: what the network said."
        return (
            f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


def read(path: Path) -> Predictions:
    """Read the ``predictions.npz`` that the training script has written.

    Raises
    ------
    LessonError
        Where there is no such file, or it is another one or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            labels, said = (np.asarray(file[name], np.int64) for name in ("labels", "predictions"))
            sure = np.asarray(file["probabilities"], float)
        if sure.shape != (len(labels), 10) or said.shape != labels.shape:
            raise ValueError("its arrays don't belong together")
        if not all(array.size and array.min() >= 0 and array.max() <= 9 for array in (labels, said)):
            raise ValueError("it holds other numbers than digits")
    except Exception as error:  # of many kinds: numpy's, zip's, zlib's
        reason = getattr(error, "strerror", None) or str(error) or "it is damaged"
        raise LessonError(
            f"The predictions can't be read: {reason.splitlines()[0].rstrip('.')}.",
            str(path),
            "Run the training again; it writes the file anew.",
        ) from error
    return Predictions(labels, said, sure.max(axis=1))
