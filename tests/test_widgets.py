"""The live view, in a real kernel: it moves while the training runs, its button stops it, papermill waits."""

import time

import jupyter_client
import nbformat
import papermill
import pytest

# A program that writes metrics as the training does, and no faster than one can look.
SLOW = """
import json, time
with open("metrics.jsonl", "w", buffering=1) as file:
    for step in range(1, {steps} + 1):
        line = dict(step=step, steps={steps}, epoch=1, set="train", pictures=128 * step, loss=1 / step)
        file.write(json.dumps(line | dict(accuracy=0.9, seconds=step / 5, device="cpu")) + "\\n")
        time.sleep(0.2)
    line |= dict(set="test", accuracy=0.99, seconds=step / 5, device="cpu")
    file.write(json.dumps(line) + "\\n" + '{{"step": ')
"""
CELL = """
from pathlib import Path
from lesson_helpers import training
training.SCRIPT = Path("slow.py")
training.run(Path("."))
"""


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(steps=300))
    manager, client = jupyter_client.manager.start_new_kernel(cwd=str(tmp_path))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def subshell(client):
    """Ask for a subshell, as JupyterLab does for what widgets say."""
    message = client.session.msg("create_subshell_request")
    client.control_channel.send(message)
    return client.control_channel.get_msg(timeout=20)["content"]["subshell_id"]


def click(client, shell, widget):
    content = {"comm_id": widget, "data": {"method": "custom", "content": {"event": "click"}}}
    message = client.session.msg("comm_msg", content)
    message["header"]["subshell_id"] = shell
    client.shell_channel.send(message)


def shown(client, wanted, seconds=30):
    """Return the next message of a kind that the cell shows."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        message = client.get_iopub_msg(timeout=seconds)
        if wanted(message["msg_type"], message["content"]):
            return message["content"]
    raise TimeoutError


def test_it_moves_while_the_cell_waits_and_its_button_stops_the_training(kernel):
    shell = subshell(kernel)
    request = kernel.execute(CELL)
    widget_view = "application/vnd.jupyter.widget-view+json"
    button = shown(kernel, lambda kind, c: kind == "display_data" and widget_view in c["data"])
    seen = shown(
        kernel, lambda kind, c: kind == "update_display_data" and "step 3 of 300" in c["data"]["text/plain"]
    )
    assert "<svg" in seen["data"]["text/html"]
    begun = time.monotonic()
    click(kernel, shell, button["data"][widget_view]["model_id"])
    reply = kernel.get_shell_msg(timeout=20)
    while reply["parent_header"].get("msg_id") != request:
        reply = kernel.get_shell_msg(timeout=20)
    assert time.monotonic() - begun < 10
    assert reply["content"]["ename"] == "LessonError"
    assert "You stopped the training." in reply["content"]["evalue"]
    assert "Run the cell again" in reply["content"]["evalue"]
    gone = shown(kernel, lambda kind, c: kind == "update_display_data" and c["data"].get("text/html") == "")
    assert gone["transient"] == button["transient"]


def test_the_notebook_s_own_interrupt_stops_it_too(kernel, tmp_path):
    request = kernel.execute(CELL)
    shown(
        kernel, lambda kind, c: kind == "update_display_data" and "step 3 of 300" in c["data"]["text/plain"]
    )
    kernel.control_channel.send(kernel.session.msg("interrupt_request"))
    reply = kernel.get_shell_msg(timeout=20)
    assert reply["parent_header"]["msg_id"] == request
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_papermill_waits_for_the_end_and_keeps_the_last_picture_without_the_button(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(steps=5))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "a.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb"), cwd=str(tmp_path),
        kernel_name="python3", execution_timeout=60, progress_bar=False,
    )  # fmt: skip
    outputs = nbformat.read(tmp_path / "b.ipynb", 4).cells[0].outputs
    pictures = [o.data["text/html"] for o in outputs if "<svg" in o.get("data", {}).get("text/html", "")]
    assert len(pictures) == 1
    assert "99.00 % of the test digits right" in pictures[0]
    assert "<progress" not in pictures[0]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert not [o for o in outputs if o.get("name") == "stderr"]
