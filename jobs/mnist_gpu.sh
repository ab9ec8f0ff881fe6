#!/bin/bash
# Runs on the execute point, in the job's own folder: looks at the GPU, unpacks
# the data, trains. Its arguments go on to the training. Each failure ends the
# job with a sentence and a code that isn't 0.
set -euo pipefail

fail() { # SENTENCE [CODE]
    echo "mnist_gpu.sh on ${HOSTNAME:-this machine}: $1" >&2
    exit "${2:-1}"
}

echo "Host: ${HOSTNAME:-unknown}"
echo "GPUs given to this job: ${CUDA_VISIBLE_DEVICES:-none}"

# Apptainer leaves out an image's ENTRYPOINT; its ENV puts Python on PATH.
command -v python >/dev/null ||
    fail "no python on PATH; name a container image, or a pool that has torch."
echo "Python: $(command -v python)"

# The driver's own view of the GPU; slots without a driver lack the program.
if command -v nvidia-smi >/dev/null; then
    nvidia-smi || echo "nvidia-smi is there, but ended with code $?."
fi
python src/torch_detect_gpu.py ||
    fail "torch can't use a GPU here, so the training was not started."

tar -xzf MNIST_data.tar.gz || fail "MNIST_data.tar.gz can't be unpacked."
python src/torch_mnist.py --data-dir data --save-model mnist_cnn.pt "$@" || {
    code=$?
    fail "the training ended with code $code." "$code"
}
