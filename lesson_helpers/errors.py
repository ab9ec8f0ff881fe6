"""The one kind of error that a learner or an instructor can cause."""


class LessonError(Exception):
    """A mistake that a person can mend, said in three parts.

    Parameters
    ----------
    what : str
        What is wrong, as one sentence.
    where : str
        The file, cell, parameter, program or address it is wrong in.
    fix : str
        What to do or type instead.

    Examples
    --------
    >>> print(LessonError("There is no such folder.", "workspace", "Run notebook 01 first."))
    What: There is no such folder.
    Where: workspace
    Do: Run notebook 01 first.
    """

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        return f"What: {self.what}\nWhere: {self.where}\nDo: {self.fix}"

    def _render_traceback_(self) -> list[str]:
        """Shown by IPython in place of the traceback, which would only hide the message."""
        return str(self).splitlines()
