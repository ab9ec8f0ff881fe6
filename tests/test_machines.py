import pytest

from lesson_helpers import lockfiles, machines, paths
from lesson_helpers.errors import LessonError
from lesson_helpers.machines import Machine


@pytest.fixture(scope="module")
def lock():
    return lockfiles.read(paths.root() / "pixi.lock")


@pytest.fixture(scope="module")
def gpu(lock):
    return lock.part("gpu")


def forbidding(fit):
    return [(check.what, check.package) for check in fit.forbidding]


def test_a_node_with_a_new_driver_runs_the_gpu_environment(gpu):
    fit = machines.fits(gpu, Machine("535.104.05", "7.5", "2.34"))
    assert fit.runs
    assert {check.state for check in fit.checks} == {"yes"}
    assert "gpu on linux-64 with cuda 12 runs on that machine" in str(fit)


@pytest.mark.parametrize(("driver", "runs"), [("525.59", False), ("525.60.13", True), ("590.1", True)])
def test_cuda_12_needs_driver_525_60(gpu, driver, runs):
    fit = machines.fits(gpu, Machine(driver, "7.5", "2.34"))
    assert fit.runs == runs
    if not runs:
        assert forbidding(fit) == [("NVIDIA driver", "cuda-version 12.9")]


@pytest.mark.parametrize(("driver", "runs"), [("575.51", False), ("580.64", False), ("580.65.06", True)])
def test_cuda_13_needs_driver_580_65(gpu, driver, runs):
    fit = machines.fits(with_cuda_13(gpu), Machine(driver, "7.5", "2.34"))
    assert [c.state for c in fit.checks if c.what == "NVIDIA driver"] == ["yes" if runs else "no"]


def test_cuda_13_has_no_code_for_a_v100(gpu):
    assert ("compute capability", "cuda-version 13.0") in forbidding(
        machines.fits(with_cuda_13(gpu), Machine("580.65", "7.0", "2.34"))
    )
    assert machines.fits(gpu, Machine("580.65", "7.0", "2.34")).runs


def test_an_old_c_library_is_forbidden_by_the_package_that_needs_more(gpu):
    fit = machines.fits(gpu, Machine("580.65", "9.0", "2.17"))
    assert not fit.runs
    (check,) = fit.forbidding
    assert (check.what, check.needs, check.has) == ("__glibc", ">=2.28,<3.0.a0", "2.17")
    assert any(
        "__glibc >=2.28,<3.0.a0" in package.depends
        for package in gpu.packages
        if check.package == f"{package.name} {package.version}"
    )


def test_a_laptop_without_a_driver_runs_cpu_and_not_gpu(lock, gpu):
    laptop = Machine(glibc="2.36")
    assert machines.fits(lock.part("cpu", "linux-64"), laptop).runs
    fit = machines.fits(gpu, laptop)
    assert ("NVIDIA driver", "cuda-version 12.9") in forbidding(fit)
    assert ("__cuda", "pytorch 2.9.1") in forbidding(fit)


def test_another_kind_of_machine_is_said_and_nothing_else(gpu):
    fit = machines.fits(gpu, Machine(subdir="osx-arm64"))
    assert forbidding(fit) == [("kind of machine", "the platform")]
    assert len(fit.checks) == 1


def test_what_is_not_known_of_the_machine_is_not_judged_and_said(gpu):
    fit = machines.fits(gpu, Machine("550.54"))
    assert fit.runs
    assert "not judged: __glibc, compute capability" in str(fit)


@pytest.mark.parametrize(
    ("driver", "cuda"), [("470.57", "11.4"), ("535.1", "12.2"), ("580.65", "13.0"), ("", "")]
)
def test_the_driver_tells_which_cuda_there_is(driver, cuda):
    assert Machine(driver).cuda == cuda


def test_this_machine_is_asked(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "535.104.05, 7.5"\necho "535.104.05, 8.0"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    here = machines.here()
    assert (here.driver, here.compute, here.cuda) == ("535.104.05", "7.5", "12.2")
    assert here.subdir == lockfiles.this_subdir()


@pytest.mark.parametrize("script", ["exit 9", "true", "echo No devices were found"])
def test_a_machine_whose_nvidia_smi_fails_has_no_driver(monkeypatch, tmp_path, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machines.here().driver == ""


def test_a_version_that_is_none_has_a_clear_message():
    with pytest.raises(LessonError) as caught:
        Machine("new")
    assert "driver = 'new' is no version" in caught.value.what
    assert caught.value.where == "that machine"
    assert "nvidia-smi" in caught.value.fix


def with_cuda_13(part):
    """Return the environment with the package cuda-version at 13.0; all else stays."""
    from dataclasses import replace

    packages = (replace(p, version="13.0") if p.name == "cuda-version" else p for p in part.packages)
    return replace(part, packages=tuple(packages))
