#!/bin/sh
# HTCondor's own simulated GPUs, with the two properties that a real driver reports and the simulation leaves
# out (submit files ask for them), and one that says what they are.
# usage: gpu_discovery.sh CONDOR_GPU_DISCOVERY KIND,COUNT DRIVER     e.g. …/condor_gpu_discovery 4,1 12.4
# KIND is a number of condor_gpu_discovery's own list (4: A100); DRIVER is the newest CUDA that "it" supports.
version=$(echo "$3" | awk -F. '{ print $1 * 1000 + $2 * 10 }')
"$1" -properties -extra "-simulate:$2" |
    sed "s/^Common=\[ /&DriverVersion=$3; MaxSupportedVersion=$version; Simulated=true; /"
