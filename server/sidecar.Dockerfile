# What runs beside a model: the NVML sidecar, and the simulated vLLM server. Build: docker compose build sidecar
#
# BASE as in client/Dockerfile. No CUDA in it: the NVIDIA runtime puts libnvidia-ml.so.1 into the container.
ARG BASE=python:3.13-slim@sha256:6771159cd4fa5d9bba1258caf0b82e6b73458c694d178ad97c5e925c2d0e1a91

FROM ${BASE} AS packages
COPY requirements.lock /tmp/requirements.lock
# The packages of the lock file that server/ imports, at the same versions and hashes; the import below fails when one is missing.
ARG PACKAGES="anyio click h11 httptools idna msgspec numpy nvidia-ml-py pillow prometheus-client starlette typing-extensions uvicorn"
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip_conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip_conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip_conf; fi; \
    awk -v names="$PACKAGES" 'BEGIN { n = split(names, a, " "); for (i = 1; i <= n; i++) keep[a[i]] = 1 } \
        /^[a-z]/ { split($1, p, "=="); on = p[1] in keep } on' /tmp/requirements.lock > /tmp/server.lock \
    && python3 -m venv /tmp/installer \
    && python3 -m venv --without-pip /opt/halfweight \
    && /tmp/installer/bin/pip --python /opt/halfweight/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
       --only-binary :all: --no-deps --require-hashes -r /tmp/server.lock \
    && find /opt/halfweight -type d -name tests -prune -exec rm -rf {} +

FROM ${BASE}
LABEL org.opencontainers.image.title="halfweight-server" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/halfweight /opt/halfweight
WORKDIR /app
COPY server server
# A new volume that is mounted here takes over its owner.
RUN mkdir /logs && chown 1000:1000 /logs
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PATH=/opt/halfweight/bin:$PATH
RUN python -m compileall -q server && python -c "import pynvml, server.nvml_sidecar, server.sim"
ENV PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 9401
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9401/health', timeout=3)"]
ENTRYPOINT ["python", "-m"]
CMD ["server.nvml_sidecar", "--host", "0.0.0.0"]
