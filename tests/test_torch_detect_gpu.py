"""The look at the GPU says what is there, and never takes a simulated one for a real one."""

import pytest
import scripts

SCRIPT = "torch_detect_gpu.py"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Call it as the machine is, in a slot whose GPU is simulated, and without PyTorch."""
    folder = tmp_path_factory.mktemp("detect")
    calls = [
        scripts.call(SCRIPT, folder),
        scripts.call(SCRIPT, folder, LESSON_SIMULATED_GPU="1", CUDA_VISIBLE_DEVICES="GPU-1234"),
        scripts.call(SCRIPT, folder, without=["torch"], LESSON_SIMULATED_GPU="1"),
    ]
    return dict(zip(("plain", "simulated", "no torch"), scripts.answers(calls), strict=True))


def test_a_gpu_is_named_and_computes(answers):
    if answers["plain"].code:
        pytest.skip("PyTorch sees no GPU on this machine")
    assert "GPU" in answers["plain"].out


def test_no_gpu_is_one_sentence_that_says_why(answers):
    if answers["plain"].code == 0:
        pytest.skip("this machine has a GPU")
    assert answers["plain"].code == 1
    assert answers["plain"].err.startswith("PyTorch sees no GPU: ")
    assert answers["plain"].err.count("\n") == 1


def test_a_simulated_gpu_is_called_simulated(answers):
    if answers["plain"].code == 0:
        pytest.skip("this machine has a GPU, which is used even where another is simulated")
    assert answers["simulated"].code == 0
    assert answers["simulated"].err == ""
    assert "Assigned to this job: GPU-1234." in answers["simulated"].out
    assert "The GPU of this slot is simulated" in answers["simulated"].out
    assert "there is no hardware" in answers["simulated"].out


def test_without_pytorch_it_fails_and_says_so(answers):
    assert answers["no torch"].code == 1
    assert answers["no torch"].err == "This Python has no PyTorch; use the gpu environment's.\n"
