"""The bill of materials of an environment (SBOM), and the licences to read before an image is made public.

It is CycloneDX 1.6 in JSON (https://cyclonedx.org/docs/1.6/json/), made of a lock file alone: the packages
are pinned there with hash and address, so it is known before anything is installed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lesson_helpers import lens, lockfiles
from lesson_helpers.lockfiles import Locked, Package
from lesson_helpers.tables import Shown, Table

# An SPDX expression, by its form; what some packages write instead ("BSD 3-Clause") is only a name.
EXPRESSION = re.compile(r"\(*[\w.+-]+\)*( (AND|OR|WITH) \(*[\w.+-]+\)*)*")

# Licences that are a text of a maker's own, by the beginning of their names, and where that text is.
# Makers of GPU software restrict what may be handed on. What exactly, only their text says: it is not
# summed up here.
OWN_TERMS = (
    ("LicenseRef-NVIDIA", "perhaps not: read NVIDIA's licence agreement (EULA) for the CUDA Toolkit"),
    ("LicenseRef-cuDNN", "perhaps not: read NVIDIA's licence agreement for cuDNN"),
    ("LicenseRef-Intel", "perhaps not: read the Intel Simplified Software License"),
)
UNKNOWN = "not known: read its text first"
FREE = ("LicenseRef-Public-Domain",)


@dataclass(frozen=True, repr=False)
class Bill(Shown):
    """A bill of materials, shown as the licences that somebody has to read before an image is published.

    Parameters
    ----------
    part : Locked
        The environment on its platform.
    document : dict
        The CycloneDX document.
    """

    part: Locked
    document: dict

    @property
    def conditions(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Licence to what has to be read, and its packages; only licences of a maker's own."""
        found = {}
        for licence, names in lens.licences(self.part).own.items():
            if licence not in FREE:
                says = (says for begin, says in OWN_TERMS if licence.startswith(begin))
                found[licence] = (next(says, UNKNOWN), names)
        return found

    def table(self) -> Table:
        """Return one row for each licence that is a text of a maker's own."""
        rows = tuple(
            (licence.removeprefix("LicenseRef-") or "not said", str(len(names)), says)
            for licence, (says, names) in self.conditions.items()
        )
        count = sum(len(names) for _, names in self.conditions.values())
        title = f"{len(self.part.packages)} packages in {self.part.environment} on {self.part.label}"
        note = (
            f"{count} of them come under terms of their maker's own. Before you make an image of them "
            "public, read these texts, or leave the packages out."
            if rows
            else "None of them comes under terms of its maker's own: keep their notices, read what they ask."
        )
        return Table(("licence", "packages", "may it be handed on?"), rows, title, note)

    def write(self, path: str | Path) -> Path:
        """Write the document as JSON, the same bytes for the same lock, and return where."""
        path = Path(path)
        beside = path.with_name(f"{path.name}.part")
        beside.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        return beside.replace(path)


def make(lock: str | Path, environment: str, platform: str = "") -> Bill:
    """Make the bill of materials of an environment.

    Parameters
    ----------
    lock : str or Path
        The ``pixi.lock``.
    environment, platform : str
        The environment, and the machines that it is for: by default this machine's kind.

    Raises
    ------
    LessonError
        Where the lock can't be read, or has no such environment.
    """
    part = lockfiles.read(lock).part(environment, platform)
    names = {package.name: _purl(package) for package in part.packages}
    whole = f"{environment} on {part.label}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": whole, "name": whole}},
        "components": [_component(package) for package in part.packages],
        "dependencies": [
            {"ref": whole, "dependsOn": sorted(names.values())},
            *({"ref": names[p.name], "dependsOn": _needs(p, names)} for p in part.packages),
        ],
    }
    return Bill(part, document)


def _component(package: Package) -> dict:
    component = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        "hashes": [{"alg": "SHA-256", "content": package.sha256}] if package.sha256 else [],
        "externalReferences": [{"type": "distribution", "url": package.url}],
    }
    if EXPRESSION.fullmatch(package.licence):
        component["licenses"] = [{"expression": package.licence}]
    elif package.licence:
        component["licenses"] = [{"license": {"name": package.licence}}]
    return component


def _purl(package: Package) -> str:
    """Return a package's name in the form that all ecosystems share (https://github.com/package-url)."""
    *_, channel, subdir, file = package.url.split("/")
    kind = "conda" if file.endswith(".conda") else "tar.bz2"
    version, build = quote(package.version, safe=""), quote(package.build, safe="")
    about = f"build={build}&channel={quote(channel, safe='')}&subdir={subdir}&type={kind}"
    return f"pkg:conda/{quote(package.name, safe='')}@{version}?{about}"


def _needs(package: Package, names: dict[str, str]) -> list[str]:
    needed = (lockfiles.match(spec, package.name).name.normalized for spec in package.depends)
    return sorted({names[name] for name in needed if name in names})
