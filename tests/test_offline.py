"""A whole ``./lesson run`` on a machine that has lost its network, after everything was fetched once."""

import json
import os
import subprocess
import sys

import pytest

from lesson_helpers import paths, processes

# A network namespace of its own, in which only loopback is up; what follows runs there.
CUT_OFF = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
LIMIT = 600  # seconds; a minute and a half on two idle cores


@pytest.fixture
def fetched(mnist_data, pool, engine, registry):
    """Have everything that a first run fetches; the offline run starts a pool and a registry of its own."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root can take the network away from a process that stays the same user")
    if subprocess.run([*CUT_OFF, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow network namespaces")


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.usefixtures("fetched")
def test_a_second_run_needs_no_network_ends_with_green_rows_and_leaves_no_process():
    processes.end_leftovers()
    before = set(paths.state().glob("runs/*"))
    run = [*CUT_OFF, sys.executable, "-P", "-m", "lesson_helpers", "run"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = set(paths.state().glob("runs/*")) - before
    told = json.loads((made / "report.json").read_text())
    names = sorted(path.stem for path in (paths.root() / "notebooks").glob("*.ipynb"))
    assert [(row["name"], row["result"]) for row in told["notebooks"]] == [(name, "passed") for name in names]
    assert processes.end_leftovers() == 0
