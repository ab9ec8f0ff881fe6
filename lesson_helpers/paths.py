"""Where things lie in this checkout. Nothing outside of it is ever written."""

from pathlib import Path

from lesson_helpers.errors import LessonError


def root() -> Path:
    """Return the checkout: the folder with ``pixi.toml``, ``notebooks`` and this package."""
    return Path(__file__).resolve().parent.parent


def state() -> Path:
    """Return ``.lesson``, where everything the kit makes for itself lies (git ignores it)."""
    folder = root() / ".lesson"
    folder.mkdir(exist_ok=True)
    return folder


def programs() -> Path:
    """Return ``.lesson/programs``: HTCondor, an image engine, a registry, where they had to be fetched."""
    folder = state() / "programs"
    folder.mkdir(exist_ok=True)
    return folder


def data() -> Path:
    """Return ``.lesson/data``: the four MNIST files, once for the whole checkout."""
    folder = state() / "data"
    folder.mkdir(exist_ok=True)
    return folder


def inside(folder: str | Path) -> Path:
    """Return a folder given by a person as an absolute path; a relative one counts from the checkout.

    Raises
    ------
    LessonError
        Where the path is a file, or one that can't be.
    """
    try:
        path = (root() / Path(folder).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, links in a circle, a null character
        raise LessonError(
            f"This is no path of a folder: {error}.",
            str(folder),
            "Name a folder in the checkout, such as workspace, or an absolute path.",
        ) from None
    if path.exists() and not path.is_dir():
        raise LessonError(
            "A folder was expected and this is a file.", str(path), "Name a folder, or a name that is free."
        )
    return path


def tool_environment() -> dict[str, str]:
    """Return the variables that keep Jupyter, IPython, Matplotlib and torch inside of the checkout."""
    home = state() / "home"
    home.mkdir(exist_ok=True)  # IPython warns where the folder above its own is missing
    home.chmod(0o700)  # JupyterLab writes its token into a file that all may read
    return {
        "JUPYTER_CONFIG_DIR": str(home / "jupyter-config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(home / "jupyter-runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "torchinductor"),  # else below /tmp
        "npm_config_cache": str(home / "npm"),  # JupyterLab asks npm where it is, and npm logs that
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel start warns on stderr
    }
