"""One kind of table for every result: it reads well in JupyterLab, in a terminal and on the site."""

from dataclasses import dataclass
from html import escape

UNITS = (" MB", " kB", " ms", " %")


@dataclass(frozen=True, repr=False)
class Table:
    """A table of words.

    Parameters
    ----------
    head : tuple of str
        The columns' names.
    rows : tuple of tuple of str
        The cells. A column in which each cell is a number, with or without a unit, is set right.
    title : str
        Stands above; may be empty.
    note : str
        A sentence or two below: what the table does not say; may be empty.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        # a lock file comes from anywhere, and a terminal obeys what it is told in escape sequences
        clean = tuple(tuple(_printable(cell) for cell in row) for row in self.rows)
        object.__setattr__(self, "rows", clean)

    @property
    def right(self) -> tuple[bool, ...]:
        """Which columns are set right."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.head))]
        return tuple(bool(cells) and all(map(_is_number, cells)) for cells in columns)

    def __str__(self) -> str:
        table = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.head))]
        set_ = [str.rjust if right else str.ljust for right in self.right]
        lines = ("  ".join(s(c, w) for s, c, w in zip(set_, row, widths, strict=True)) for row in table)
        body = [line.rstrip() for line in lines] if self.rows else []
        return "\n".join([*([self.title] if self.title else []), *body, *([self.note] if self.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        styles = [f"text-align: {'right' if r else 'left'}; padding: 0.1em 1em" for r in self.right]
        head = "".join(
            f"<th scope='col' style='{s}'>{escape(c)}</th>" for c, s in zip(self.head, styles, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td style='{s}'>{escape(c)}</td>" for c, s in zip(row, styles, strict=True))
            + "</tr>"
            for row in self.rows
        )
        title = f"<p><strong>{escape(self.title)}</strong></p>" if self.title else ""
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.rows else ""
        return f"{title}{table}{note}"

    def __rich__(self):
        """Return what the terminal shows."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name, right in zip(self.head, self.right, strict=True):
            shown.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            shown.add_row(*map(Text, row))
        title = [Text(self.title, "bold")] if self.title else []
        return Group(*title, *([shown] if self.rows else []), *([Text(self.note)] if self.note else []))


class Shown:
    """A result that is shown as a table: its class has a method ``table()``."""

    def table(self) -> Table:
        """Return the table that is shown."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __rich__(self):
        return self.table().__rich__()


def megabytes(size: int) -> str:
    """Return bytes as text: whole megabytes, or a tenth below ten, or kilobytes.

    >>> megabytes(4_009_123_456), megabytes(340_000), megabytes(2_000)
    ('4,009 MB', '0.3 MB', '2.0 kB')
    """
    if abs(size) < 50_000:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:,.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def _printable(text: str) -> str:
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def _is_number(cell: str) -> bool:
    number = next((cell.removesuffix(unit) for unit in UNITS if cell.endswith(unit)), "")
    whole = cell.replace(",", "").isdigit() or cell in ("", "?")
    return whole or number.lstrip("+-").replace(",", "").replace(".", "", 1).isdigit()
