"""What the tests share. Slow parts (the pool, the registry, the data) are made once for the whole run."""

import os

import pytest

from lesson_helpers import paths, processes


def pytest_configure(config):
    """Make this run the owner of everything its tests start; kernels and workers inherit that."""
    os.environ.update(paths.tool_environment())
    processes.claim()


@pytest.fixture
def workspace(tmp_path_factory):
    """Give an empty workspace below ``.lesson``: HTCondor holds jobs under the system's temporary folder."""
    return tmp_path_factory.mktemp("workspace")
