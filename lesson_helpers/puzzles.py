"""Three workspaces whose lock file fails ``--locked``, made from the learner's own, for an exercise."""

from pathlib import Path

import tomlkit

from lesson_helpers import lockfiles, manifests, solver
from lesson_helpers.errors import LessonError

STORIES = (
    "A colleague wanted coloured tables, edited pixi.toml by hand, and committed it.",
    "The pool got new drivers. Somebody wrote that down in pixi.toml.",
    "Two people changed pixi.lock. Git could not merge it, so one of them did, by hand.",
)


def broken_locks(workspace: str | Path) -> list[Path]:
    """Write three broken copies of a workspace to ``broken/1`` to ``broken/3``, and tell their stories.

    Parameters
    ----------
    workspace : str or Path
        The folder with ``pixi.toml`` and ``pixi.lock``; it stays as it is.

    Returns
    -------
    list of Path
        The three folders.

    Raises
    ------
    LessonError
        Where the workspace has no environments ``cpu`` and ``gpu``.
    """
    workspace = Path(workspace)
    asked, lock = manifests.read(workspace / "pixi.toml"), lockfiles.read(workspace / "pixi.lock")
    document = tomlkit.parse(asked.path.read_text())
    for name in ("cpu", "gpu"):
        if name not in asked.wanted or "dependencies" not in document.get("feature", {}).get(name, {}):
            what = f"There is no environment {name!r} with a feature of that name to break."
            raise LessonError(what, str(asked.path), "Make it as the cells above do, and run `pixi lock`.")
    folders = []
    for number, (story, spoil) in enumerate(zip(STORIES, (_add, _drivers, _merge), strict=True), 1):
        folder = workspace / "broken" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pixi.toml", "pixi.lock"):
            (folder / name).write_bytes((workspace / name).read_bytes())
        spoil(folder, asked, lock)
        print(f"{number}. {story}")
        folders.append(folder)
    return folders


def _add(folder: Path, asked: manifests.Manifest, lock: lockfiles.Lock) -> None:
    document = tomlkit.parse((folder / "pixi.toml").read_text())
    document["feature"]["cpu"]["dependencies"]["rich"] = ">=14"
    (folder / "pixi.toml").write_text(tomlkit.dumps(document))


def _drivers(folder: Path, asked: manifests.Manifest, lock: lockfiles.Lock) -> None:
    document = tomlkit.parse((folder / "pixi.toml").read_text())
    for platform in document["workspace"]["platforms"]:
        if isinstance(platform, dict) and "cuda" in platform:
            cuda = platform["cuda"]
            driver = cuda["driver"] if isinstance(cuda, dict) else cuda
            platform["cuda"] = str(int(driver.split(".")[0]) + 1)
    (folder / "pixi.toml").write_text(tomlkit.dumps(document))


def _merge(folder: Path, asked: manifests.Manifest, lock: lockfiles.Lock) -> None:
    records = {}
    for environment, wanted in asked.wanted.items():
        for platform in wanted:
            part = next(
                part
                for part in lock.parts
                if part.environment == environment and part.platform.same(platform)
            )
            lost = "numpy" if environment == "cpu" and platform.subdir == "osx-arm64" else ""
            records[environment, platform] = [p.record for p in part.packages if p.name != lost]
    solver.write(asked, records, folder / "pixi.lock")
