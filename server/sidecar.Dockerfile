# The NVML sidecar. Build: docker compose build sidecar
ARG BASE=python:3.12-slim
FROM ${BASE} AS packages
COPY requirements.lock /tmp/requirements.lock
RUN python3 -m venv /opt/halfweight \
    && /opt/halfweight/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.lock

FROM ${BASE}
COPY --from=packages /opt/halfweight /opt/halfweight
WORKDIR /app
COPY server server
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
ENTRYPOINT ["/opt/halfweight/bin/python", "-m", "server.nvml_sidecar"]
