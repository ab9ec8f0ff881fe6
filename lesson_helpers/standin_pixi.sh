#!/bin/bash
# STAND-IN for pixi, used where the real one's image can't be fetched. It is not pixi: it installs nothing
# from a channel. It checks that the environment is in the manifest's lock, then puts a copy of this machine's
# own Python where pixi would have put the environment, so that every line of the Dockerfile runs.
set -euo pipefail

stop() { echo "stand-in pixi: $*" >&2; exit 1; }

command=${1:-}
[ $# -gt 0 ] && shift
environment=default locked=no shell=bash
while [ $# -gt 0 ]; do
    case $1 in
        --locked) locked=yes ;;
        --environment | -e) environment=${2:?} && shift ;;
        --shell | -s) shell=${2:?} && shift ;;
        *) stop "the option $1 is not known here" ;;
    esac
    shift
done
[ "$locked" = yes ] || stop "without --locked an image could differ from the lock"
[ -f pixi.toml ] || stop "no pixi.toml here: does the Dockerfile copy it?"
[ -f pixi.lock ] || stop "no pixi.lock here: does the Dockerfile copy it?"

# The lock's environments are the keys, indented by two, between "environments:" and the next top-level key.
known=$(sed -n '/^environments:/,/^[^ e]/s/^  \([^ :-][^ :]*\):$/\1/p' pixi.lock | tr '\n' ' ')
case " $known" in
    *" $environment "*) ;;
    *) stop "unknown environment '$environment'; pixi.lock has: $known" ;;
esac
prefix=$PWD/.pixi/envs/$environment

case $command in
    install)
        mkdir -p "$prefix"
        cp -a /opt/stand-in/environment/. "$prefix/"
        echo "stand-in pixi: put this machine's own Python at $prefix, in place of the locked packages"
        ;;
    shell-hook)
        [ "$shell" = bash ] || stop "only the shell bash is known here"
        # shellcheck disable=SC2016  # $PATH is for the shell that reads this
        printf 'export PATH="%s/bin:$PATH"\n' "$prefix"
        printf 'export CONDA_PREFIX="%s"\n' "$prefix"
        printf 'export PIXI_ENVIRONMENT_NAME="%s"\n' "$environment"
        printf 'export PIXI_PROJECT_ROOT="%s"\n' "$PWD"
        ;;
    *) stop "the command '$command' is not known here" ;;
esac
