"""What the tests share. Slow parts (the pool, the registry, the data) are made once for the whole run."""

import os
import sys

import pytest

from lesson_helpers import environments, images, mnist, paths, processes
from lesson_helpers import pool as pools
from lesson_helpers import registry as registries


def pytest_configure(config):
    """Make this run the owner of everything its tests start; kernels and workers inherit that."""
    os.environ.update(paths.tool_environment())
    # HTCondor holds container jobs, and DAGMan stops, below the system's temporary folder
    temporary = paths.state() / "tests"
    temporary.mkdir(exist_ok=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(temporary)
    processes.claim(anew=True)  # also in a terminal of JupyterLab, whose pool is the learner's


@pytest.fixture
def workspace(tmp_path_factory):
    """Give an empty workspace."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def mnist_data():
    """Give the folder with MNIST's four files, the checkout's own, fetched where they aren't there yet."""
    return mnist.fetch(progress=False)


@pytest.fixture(scope="session")
def engine():
    """Give the engine that builds images on this machine; its store is removed afterwards."""
    choice = images.choose()
    if not choice.engine:
        pytest.skip(f"no image can be built here: {choice.rung().reason}")
    yield choice.engine
    choice.engine.close()


@pytest.fixture(scope="session")
def registry():
    """Give a registry on loopback."""
    started, rung = registries.offer()
    if not started:
        pytest.skip(f"no registry can be had here: {rung.reason}")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def pool():
    """Give a running personal pool, the one that notebooks of this run find again, to `condor_submit` too."""
    if sys.platform != "linux":
        pytest.skip("HTCondor's daemons run on Linux only")
    started = pools.start(python=environments.training_folder())
    started.activate()
    yield started
    started.stop()
