"""The configuration of a personal pool: ``pool.conf``, and before it what differs from pool to pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lesson_helpers import condor, processes
from lesson_helpers.errors import LessonError

MARK = "LESSON_POOL"  # in the environment of a pool's daemons and jobs: the pool's folder
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def text(
    folder: Path,
    programs: condor.Condor,
    gpus: condor.Gpus,
    account: condor.Account,
    python: Path,
    settings: Mapping[str, str],
) -> str:
    """Return a pool's configuration: what differs from pool to pool, then ``pool.conf``, then `settings`.

    Parameters
    ----------
    folder : Path
        The pool's folder.
    programs, gpus, account
        What `condor` found: the programs, the GPUs, and whom the pool runs as.
    python : Path
        The folder with the Python that jobs find on PATH.
    settings : mapping of str to str
        More lines, which win over the others.

    Raises
    ------
    LessonError
        Where a setting is not NAME and a value on one line.
    """
    environment = {
        "PATH": f"{python}:{SYSTEM_PATH}",
        processes.OWNER: processes.claim(),
        MARK: str(folder),
    }
    if gpus.simulated:
        environment["LESSON_SIMULATED_GPU"] = "1"
    lines = {
        "RELEASE_DIR": programs.bin.parent,
        "BIN": programs.bin,
        "SBIN": programs.sbin,
        "LIB": programs.lib,
        "LIBEXEC": programs.libexec,
        "SHARE": programs.share,
        "LOCAL_DIR": folder,
        "SELF": f"{account.name}@localdomain",
        "MEMORY": "$(DETECTED_MEMORY) * 3 / 4",  # the rest is for the notebook and the browser
        "GPU_DISCOVERY": _quoted(condor.discovery(programs, len(gpus.names) if gpus.simulated else 0)),
        "GPUS_SIMULATED": str(gpus.simulated).lower(),
        "CUDADriverVersion": gpus.driver,
        "CUDACapability": gpus.capability,
        # stands in for the container image: the same job finds `python` here and there
        "STARTER_JOB_ENVIRONMENT": _quoted([f"{name}={value}" for name, value in environment.items()]),
    }
    if account.join:  # for the Python bindings, which don't join the namespace
        lines["CONDOR_IDS"] = account.ids
    if not programs.at_least(25, 0):
        # these don't prove their address when they prove the user, and newer bindings ask for it
        lines["SEC_FS_ENFORCE_CHANNEL_BINDING"] = "false"
    for key, value in [*lines.items(), *settings.items()]:
        if not str(key).replace("_", "").isalnum() or "\n" in str(value) or str(value).endswith("\\"):
            raise LessonError(
                f"This is no setting of HTCondor's: {value!r}.",
                str(key) or "settings",
                "Use NAME and a value on one line.",
            )

    first, last = ("".join(f"{key} = {value}\n" for key, value in part.items()) for part in (lines, settings))
    return f"{first}\n{Path(__file__).with_name('pool.conf').read_text()}\n{last}"


def _quoted(words: Sequence[str]) -> str:
    """Return arguments, or NAME=VALUE pairs, in HTCondor's quotes (condor_submit(1), ``arguments``)."""
    words = ("'" + word.replace("'", "''").replace('"', '""') + "'" for word in words)
    return '"' + " ".join(words) + '"'
