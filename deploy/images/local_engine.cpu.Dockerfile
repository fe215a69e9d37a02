# The local engine on CPUs: vLLM from its CPU wheel, with a CPU build of PyTorch. Linux on x86_64, as the lock's hash is.
# docker build --platform linux/amd64 -f deploy/images/local_engine.cpu.Dockerfile -t spillway/local-engine:cpu .
FROM python:3.11.14-slim-bookworm AS built
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/torch-cpu.txt requirements/local-engine-cpu.txt /locks/
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --no-deps --index-url "$TORCH_INDEX" -r /locks/torch-cpu.txt \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --no-deps -r /locks/local-engine-cpu.txt
COPY spillway /app/spillway
COPY services/__init__.py /app/services/
COPY services/local_engine /app/services/local_engine
RUN /venv/bin/python -m compileall -q /app

FROM python:3.11.14-slim-bookworm
# libnuma1: vLLM's CPU kernels link it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/spillway --create-home spillway
COPY --from=built /venv /venv
COPY --from=built /app /app
# What is downloaded or compiled at run time lives on the volume; everything else may be read-only.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GRPC_VERBOSITY=ERROR \
    HOME=/var/lib/spillway HF_HOME=/var/lib/spillway/models VLLM_CACHE_ROOT=/var/lib/spillway/vllm
WORKDIR /var/lib/spillway
USER spillway
EXPOSE 7071
HEALTHCHECK --interval=10s --timeout=4s --start-period=180s CMD ["python", "-m", "spillway.probe", "127.0.0.1:7071"]
ENTRYPOINT ["python", "-m", "services.local_engine"]
CMD ["--config", "/etc/spillway/spillway.yaml"]
