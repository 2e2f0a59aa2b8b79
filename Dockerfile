# docker build --target api -t kinoray:api .    The head and the front pods: no torch, no CUDA.
# docker build --target gpu -t kinoray:gpu .    The stages, or all of it on one machine.
# Both have the same Python and Ray, as all nodes of a Ray cluster must. Pin the base to a digest where you build.
ARG PYTHON=python:3.11.14-slim-bookworm
FROM ${PYTHON} AS base
LABEL org.opencontainers.image.title="Kinoray" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/kinoray \
    PYTHONUNBUFFERED=1 \
    KINORAY_DATA=/var/lib/kinoray \
    HF_HOME=/models/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0 \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.http.proxy_gate:install
# A volume that is new takes its owner from here.
RUN useradd --uid 1000 --create-home kinoray && \
    install --directory --owner=kinoray --group=kinoray /var/lib/kinoray /models /tmp/ray
WORKDIR /opt/kinoray
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=5m --timeout=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
CMD ["python", "-m", "cli", "serve"]

FROM ${PYTHON} AS front-packages
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.lock /tmp/
# All of the lock but what computes.
RUN grep -Ev '^(torch|xformers|diffusers|transformers|accelerate)=' /tmp/requirements.lock >/tmp/front.lock && \
    pip install --no-cache-dir -r /tmp/front.lock

# PyPI's torch is the CUDA build. For CPUs: --build-arg PIP_EXTRA_INDEX_URL= the index that pytorch.org names for them.
FROM front-packages AS packages
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -r /tmp/requirements.lock

FROM base AS api
COPY --from=front-packages /opt/venv /opt/venv
COPY . .

FROM base AS gpu
COPY --from=packages /opt/venv /opt/venv
COPY . .
