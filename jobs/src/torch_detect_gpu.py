"""Say whether PyTorch sees a GPU here, and compute something on it.

Exit code 0 where it does; 1 where it doesn't, with one sentence that says why. In a personal HTCondor
pool without a GPU the slots' GPUs are simulated: the pool then sets ``LESSON_SIMULATED_GPU``, and this
says so and exits with 0.
"""

import os
import sys


def main() -> int:
    """Return the exit code."""
    try:
        import torch
    except ImportError:
        print("This Python has no PyTorch; use the gpu environment's.", file=sys.stderr)
        return 1
    print(f"PyTorch {torch.__version__}, made for CUDA: {torch.version.cuda or 'no, a CPU build'}.")
    if assigned := os.environ.get("CUDA_VISIBLE_DEVICES"):  # HTCondor sets it for the slot's GPUs
        print(f"Assigned to this job: {assigned}.")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            gigabytes = gpu.total_memory / 1e9
            print(
                f"GPU {number}: {gpu.name}, {gigabytes:.0f} GB, compute capability {gpu.major}.{gpu.minor}."
            )
            ones = torch.ones(1000, 1000, device=f"cuda:{number}")
            if (ones @ ones).sum().item() != 1e9:
                print(f"GPU {number} computes wrongly; tell the people who run it.", file=sys.stderr)
                return 1
        print("A product of two matrices came back right from each.")
        return 0
    if torch.backends.mps.is_available():
        print("GPU: Apple's, through Metal (mps); there is no CUDA on a Mac.")
        return 0
    if os.environ.get("LESSON_SIMULATED_GPU"):
        print(
            "The GPU of this slot is simulated: HTCondor matched and assigned it, but there is no hardware."
        )
        return 0
    if torch.version.cuda:
        print(
            "PyTorch sees no GPU: there is none, or no NVIDIA driver, or none was requested.", file=sys.stderr
        )
    else:
        print("PyTorch sees no GPU: this is its CPU build; use the gpu environment.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
