# The final image adds the serving packages and the model to that of Python: no torch, no compiler.
# --build-arg EXTRAS=grpc,tracing adds what those need; what is installed is locked in deploy/lock.
# To build the same image twice, name that of Python by its digest: --build-arg PYTHON=...@sha256:...
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG EXTRAS=
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/tritserve
WORKDIR /src
# Before the sources, so that their edits do not install all of it again.
COPY deploy/lock deploy/lock
RUN /build/bin/pip install --no-cache-dir --require-hashes -r deploy/lock/build.txt \
 && for part in serving $(echo "$EXTRAS" | tr , ' '); do \
      /build/bin/pip --python /opt/tritserve/bin/python install --no-cache-dir \
        --require-hashes -r "deploy/lock/$part.txt" || exit 1; \
    done \
 && find /opt/tritserve -type d -name tests -path '*/numpy/*' -prune -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY tritserve tritserve
RUN PATH=/build/bin:$PATH pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/pip --python /opt/tritserve/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM ${PYTHON}
COPY --from=build /opt/tritserve /opt/tritserve
ARG REVISION=
LABEL org.opencontainers.image.title="tritserve" \
      org.opencontainers.image.description="Embeddings of numeric sequences from 1.58-bit weights" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/tritserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1 TRITSERVE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
# Only images of Docker's own format keep it, not those of OCI's, as podman builds them: there, the
# health check is given when the container is run, as docker-compose.yml does, or is a probe of
# /health/ready and /health/live.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["tritserve", "health"]
ENTRYPOINT ["tritserve"]
CMD ["serve"]
