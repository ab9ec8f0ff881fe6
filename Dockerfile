# One environment of this workspace as a container image, for Docker, Podman
# and Buildah alike. There is no `# syntax=` line: it would ask a registry in
# each build, even where everything else is at hand.

# Dependabot renews what it finds in a FROM line, not in an ARG. So each base
# image has a FROM line, and an ARG says which one a stage builds on. Another
# image, a mirror's for example, is one --build-arg.
ARG BUILD_IMAGE=pixi
ARG RUNTIME_IMAGE=ubuntu
FROM ghcr.io/prefix-dev/pixi:0.78.0 AS pixi
FROM docker.io/library/ubuntu:24.04@sha256:224a1869083a311ef3f13648a154ba79832fbef6364d31493642ca03082da254 AS ubuntu


# Stage 1: install the environment.
FROM ${BUILD_IMAGE} AS build
ARG ENVIRONMENT=gpu
# A machine that builds images has no GPU as a rule: tell pixi which CUDA the
# driver on the worker will have.
ARG CUDA_VERSION=12
ENV CONDA_OVERRIDE_CUDA=${CUDA_VERSION}
# The same path in both stages: conda packages have it written into them.
WORKDIR /app
# Manifest and lock alone: an edit of the code never installs gigabytes again.
COPY pixi.toml pixi.lock ./
# --locked: stop if the lock does not fit the manifest.
# --mount: keep the downloads from build to build, but in no layer.
RUN --mount=type=cache,target=/root/.cache/rattler \
    pixi install --locked --environment "${ENVIRONMENT}"
# What `pixi shell` would set, as a script: what ships needs no pixi.
RUN pixi shell-hook --locked --environment "${ENVIRONMENT}" --shell bash \
    > activate.sh
# `set -u` comes last: packages' scripts may use variables that are not set.
RUN printf '%s\n' '#!/bin/bash' 'set -eo pipefail' \
    '. /app/activate.sh' 'set -u' 'exec "$@"' > entrypoint.sh \
    && chmod 755 entrypoint.sh


# Stage 2: the environment and two scripts, without pixi and its downloads.
FROM ${RUNTIME_IMAGE} AS runtime
ARG ENVIRONMENT=gpu
COPY --from=build /app/.pixi/envs/${ENVIRONMENT} /app/.pixi/envs/${ENVIRONMENT}
COPY --from=build /app/activate.sh /app/entrypoint.sh /app/
# `apptainer exec`, and so HTCondor with Apptainer, leaves the entrypoint out:
# with these lines the job finds Python all the same.
ENV CONDA_PREFIX=/app/.pixi/envs/${ENVIRONMENT} \
    PATH=/app/.pixi/envs/${ENVIRONMENT}/bin:${PATH}
# What it is. The workflow that publishes it adds source and revision.
LABEL org.opencontainers.image.title="Pixi environment ${ENVIRONMENT}" \
      org.opencontainers.image.description="Using Pixi environments on HTC systems" \
      org.opencontainers.image.licenses="BSD-3-Clause"
# A number: a cluster sees without looking inside that this is not root.
USER 65532:65532
WORKDIR /app
ENTRYPOINT ["/app/entrypoint.sh"]
CMD ["python", "--version"]
