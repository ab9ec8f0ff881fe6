"""The bill of materials of an environment, and the licences that forbid handing an image on freely."""

import json

import pytest

from lesson_helpers import lockfiles, paths, sbom
from lesson_helpers.errors import LessonError

LOCK = paths.root() / "pixi.lock"


@pytest.fixture(scope="module")
def gpu():
    return sbom.make(LOCK, "gpu", "linux-64")


@pytest.fixture(scope="module")
def locked():
    return lockfiles.read(LOCK).part("gpu", "linux-64").packages


@pytest.mark.parametrize("environment", ["gpu", "tiny"])
def test_it_fits_the_schema_that_cyclonedx_publishes(environment, tmp_path):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="Pixi's environment has no schema")
    schema = pytest.importorskip("cyclonedx.schema")
    written = sbom.make(LOCK, environment).write(tmp_path / "sbom.json")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(written.read_text()) is None
    if environment == "tiny":  # seconds for a large one
        wrong = written.read_text().replace('"type": "library"', '"type": "book"')
        assert validator.validate_str(wrong) is not None


def test_each_locked_package_is_in_it_with_its_hash_and_address(gpu, locked):
    listed = {
        (c["name"], c["version"], c["hashes"][0]["content"], c["externalReferences"][0]["url"])
        for c in gpu.document["components"]
    }
    assert listed == {(p.name, p.version, p.sha256, p.url) for p in locked}
    assert len(gpu.document["components"]) == len(locked)


def test_its_names_are_those_that_other_tools_understand(gpu):
    packageurl = pytest.importorskip("packageurl", reason="Pixi's environment has no reader of these names")
    for component in gpu.document["components"]:
        name = packageurl.PackageURL.from_string(component["purl"])
        assert (name.type, name.name, name.version) == ("conda", component["name"], component["version"])
        assert name.qualifiers["channel"] == "conda-forge"
        assert name.qualifiers["subdir"] in ("linux-64", "noarch")


def test_each_licence_in_the_form_of_an_expression_is_one(gpu):
    licences = pytest.importorskip("license_expression", reason="Pixi's environment has no list of licences")
    spdx = licences.get_spdx_licensing()
    for component in gpu.document["components"]:
        for entry in component.get("licenses", []):
            # a text of its own is allowed under this name, and in no list
            unknown = [key for key in spdx.unknown_license_keys(entry["expression"])]
            assert all(key.startswith("LicenseRef-") for key in unknown), component["name"]


def test_what_needs_what_is_in_it(gpu):
    needs = {entry["ref"]: entry["dependsOn"] for entry in gpu.document["dependencies"]}
    refs = {component["bom-ref"] for component in gpu.document["components"]}
    assert all(set(others) <= refs for others in needs.values())
    torch = next(ref for ref in refs if ref.startswith("pkg:conda/libtorch@"))
    assert any(other.startswith("pkg:conda/cudnn@") or "libcudnn" in other for other in needs[torch])


def test_what_comes_under_terms_of_its_maker_s_own_is_pointed_out(gpu):
    nvidia = gpu.conditions["LicenseRef-NVIDIA-End-User-License-Agreement"]
    assert nvidia[0].startswith("perhaps not: read NVIDIA")
    assert {"libcublas", "cuda-cudart"} <= set(nvidia[1])
    assert "libcudnn" in gpu.conditions["LicenseRef-cuDNN-Software-License-Agreement"][1]
    assert "LicenseRef-Public-Domain" not in gpu.conditions
    text = str(gpu)
    assert "NVIDIA-End-User-License-Agreement" in text
    assert f"{sum(len(names) for _, names in gpu.conditions.values())} of them come under terms" in text
    assert "<table>" in gpu._repr_html_()


def test_an_environment_with_nothing_to_mind_says_so():
    tiny = sbom.make(LOCK, "tiny", "linux-64")
    assert tiny.conditions == {}
    assert "None of them comes under terms" in str(tiny)


def test_the_same_lock_gives_the_same_bytes(gpu, tmp_path):
    again = sbom.make(LOCK, "gpu", "linux-64").write(tmp_path / "again.json")
    assert again.read_bytes() == gpu.write(tmp_path / "first.json").read_bytes()
    assert json.loads(again.read_text()) == gpu.document
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "first.json"]


@pytest.mark.parametrize(
    ("licence", "kept"),
    [
        ("MIT", [{"expression": "MIT"}]),
        ("(MIT OR Apache-2.0) AND Zlib", [{"expression": "(MIT OR Apache-2.0) AND Zlib"}]),
        ("BSD 3-Clause", [{"license": {"name": "BSD 3-Clause"}}]),
        ("", None),
    ],
)
def test_a_licence_is_an_expression_only_where_it_has_the_form_of_one(locked, licence, kept):
    from dataclasses import replace

    assert sbom._component(replace(locked[0], licence=licence)).get("licenses") == kept


def test_an_environment_that_is_not_there_is_a_clear_message():
    with pytest.raises(LessonError) as refused:
        sbom.make(LOCK, "gppu")
    assert "gppu" in refused.value.what
    assert refused.value.where
    assert "gpu" in refused.value.fix
