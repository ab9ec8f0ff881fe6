"""What a build sends to the engine: everything beside the Dockerfile, unless a list keeps it out."""

import os
from pathlib import Path

from lesson_helpers.errors import LessonError
from lesson_helpers.tables import megabytes

LISTS = (".dockerignore", "Dockerfile.dockerignore", ".containerignore")
MOST = 200_000_000  # bytes that may be sent without a list; the kit's own context is below one megabyte


def check(folder: Path) -> None:
    """Raise where a folder without a ``.dockerignore`` has much in it, before all of it is sent.

    Parameters
    ----------
    folder : Path
        The build context.
    """
    if any((folder / name).is_file() for name in LISTS):
        return
    sizes = {entry.name: _size(entry) for entry in os.scandir(folder)}
    whole = sum(sizes.values())
    if whole <= MOST:
        return
    largest = max(sizes, key=sizes.get)
    raise LessonError(
        f"There is no .dockerignore, and {megabytes(whole)} would be sent to the builder, "
        f"{megabytes(sizes[largest])} of it {largest!r}.",
        str(folder),
        "Copy the lesson's .dockerignore beside the Dockerfile: it keeps out all that no COPY needs.",
    )


def _size(entry: os.DirEntry) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size
    return sum(
        os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118  # 100,000 files: a Path each is slow
        for parent, _, files in os.walk(entry.path)
        for name in files
    )
