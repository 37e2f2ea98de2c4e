# Build:  docker build --tag webex-event-processor .
# A mirror or a pinned digest:  --build-arg PYTHON_IMAGE=mirror.example.org/python:3.13-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

# --- the virtual environment, from the hashed lock; the same base as below, because its scripts name the interpreter ---
FROM ${PYTHON_IMAGE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
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

# --- the image: no build tools, no pip, no shell needed ----------------------------------------------------------------
FROM ${PYTHON_IMAGE}

ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="webex-event-processor" \
      org.opencontainers.image.description="Every Webex webhook, verified, never lost, turned into clean CloudEvents on Kafka, and acted upon." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --from=build /opt/webex-events /opt/webex-events
# The only place that is written to; a volume mounted here starts with this owner.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/webex-events

ENV PATH=/opt/webex-events/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONUNBUFFERED=1 \
    WEBEX_EVENTS_JOURNAL__PATH=/var/lib/webex-events

WORKDIR /var/lib/webex-events
USER 65532:65532
EXPOSE 8080

# One process that handles SIGTERM itself and starts no other: it can be process 1 without an init.
ENTRYPOINT ["webex-events"]
CMD ["--help"]
