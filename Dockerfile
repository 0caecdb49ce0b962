# The final image adds the serving packages and the model to that of Python: no torch, no compiler.
# --build-arg EXTRAS=grpc,tracing adds what those need.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG EXTRAS=
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/tritserve
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY tritserve tritserve
RUN /build/bin/pip --python /opt/tritserve/bin/python install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}" \
 && find /opt/tritserve -type d -name tests -path '*/numpy/*' -prune -exec rm -r {} +

FROM ${PYTHON}
COPY --from=build /opt/tritserve /opt/tritserve
ENV PATH=/opt/tritserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1 TRITSERVE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["tritserve", "health"]
ENTRYPOINT ["tritserve"]
CMD ["serve"]
