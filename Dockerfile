# Build:   docker build --tag webex-event-processor .                    (buildah and podman build it too)
# Mirror:  --build-arg PYTHON_IMAGE=mirror.example.org/python:3.13-slim-trixie@sha256:... --build-arg PIP_INDEX_URL=...
# The official image: Debian 13 without compilers, and a Python optimised by profile (PGO) and at link time (LTO).
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie

# --- the virtual environment, from the hashed lock; the same base as below, because its scripts name the interpreter ---
FROM ${PYTHON_IMAGE} AS build

ARG PIP_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_PROGRESS_BAR=off

RUN python -m venv /opt/webex-events
COPY locks/run.txt /build/locks/run.txt
RUN /opt/webex-events/bin/python -m pip install --require-hashes --requirement /build/locks/run.txt

# Sources come after the dependencies, so that a change of ours does not download them again.
COPY pyproject.toml README.md LICENSE /build/
COPY service /build/service
RUN /opt/webex-events/bin/python -m pip install --no-index --no-deps --no-build-isolation /build \
    && /opt/webex-events/bin/python -m pip uninstall --yes \
        editables hatchling pathspec pluggy tomlkit trove-classifiers pip

# Nothing can be compiled at run time, the root is read-only. Unchecked, because a rebuild with SOURCE_DATE_EPOCH gives
# every file another time, and a byte code that looks outdated is silently compiled anew at each start.
RUN find /opt/webex-events -name __pycache__ -type d -prune -exec rm -r {} + \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/webex-events/lib

# --- the image: no build tools, no pip, no shell needed ----------------------------------------------------------------
FROM ${PYTHON_IMAGE}

# The official image has no byte code of the standard library either. 11 MB for a third of the CPU time of a start.
RUN python -B -c "import compileall, py_compile, re, sysconfig; \
compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=1, force=True, \
rx=re.compile('/(test|idlelib|tkinter|turtledemo|ensurepip|pydoc_data|lib2to3|site-packages|dist-packages)/'), \
invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"

COPY --from=build /opt/webex-events /opt/webex-events
# The only place that is written to; a volume mounted here starts with this owner.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/webex-events

ENV PATH=/opt/webex-events/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONUNBUFFERED=1

WORKDIR /var/lib/webex-events
USER 65532:65532
# Public: webhooks. Private: probes and metrics.
EXPOSE 8080 9090

# For engines; Kubernetes ignores it and asks the private port itself. Only `serve` has something to ask: switch it off
# (docker run --no-healthcheck) for the other commands.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["webex-events", "health"]

# One process that handles SIGTERM itself and starts no other: it can be process 1 without an init.
ENTRYPOINT ["webex-events"]
CMD ["--help"]

# Last, since they differ for each build. Who publishes the image says where its sources and its manual are.
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST=""
ARG SOURCE=""
ARG DOCUMENTATION=""
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="webex-event-processor" \
      org.opencontainers.image.description="Every Webex webhook, verified, never lost, turned into clean CloudEvents on Kafka, and acted upon." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.documentation="${DOCUMENTATION}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}"
