"""What ran for real, and where the next best real thing stood in.

A notebook says it in one visible line; ``./lesson run`` collects the same lines out of the executed
notebook into its report, so that the page and the report can't disagree.
"""

from dataclasses import asdict, dataclass
from html import escape

MIME = "application/vnd.lesson.rung+json"


@dataclass(frozen=True)
class Rung:
    """One part of the lesson and what ran for it on this machine.

    Parameters
    ----------
    part : str
        The part: ``"GPU"``, ``"image engine"``, ``"pool"``.
    ran : str
        What ran.
    instead_of : str
        What would have run with everything at hand; empty where that is what ran.
    reason : str
        Why the lower rung was used; empty where it was not.
    """

    part: str
    ran: str
    instead_of: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if not self.instead_of:
            return f"{self.part}: {self.ran}."
        return f"{self.part}: {self.ran}, instead of {self.instead_of}, because {self.reason}."

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        mark = "✓" if not self.instead_of else "▽"
        return {
            "text/plain": f"{mark} {self}",
            "text/html": f"<p><span aria-hidden='true'>{mark}</span> {escape(str(self))}</p>",
            MIME: asdict(self),
        }


def read(notebook) -> list[Rung]:
    """Return the rungs shown in an executed notebook, in order, each once.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        An executed notebook.
    """
    outputs = (o for cell in notebook.cells for o in cell.get("outputs", []))
    return list(dict.fromkeys(Rung(**o["data"][MIME]) for o in outputs if MIME in o.get("data", {})))
