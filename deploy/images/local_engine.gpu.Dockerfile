# The local engine on NVIDIA GPUs: the official vLLM image, and on top of it what Spillway's core needs. The lock was
# compiled together with this vLLM, so what it replaces fits.
# docker build -f deploy/images/local_engine.gpu.Dockerfile -t spillway/local-engine:gpu .
FROM vllm/vllm-openai:v0.32.0
COPY requirements/local-engine-gpu.txt /locks/
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --require-hashes --no-deps -r /locks/local-engine-gpu.txt \
    && useradd --system --uid 10001 --home-dir /var/lib/spillway --create-home spillway
COPY spillway /app/spillway
COPY services/__init__.py /app/services/
COPY services/local_engine /app/services/local_engine
RUN python3 -m compileall -q /app
# What is downloaded or compiled at run time lives on the volume; everything else may be read-only.
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GRPC_VERBOSITY=ERROR \
    HOME=/var/lib/spillway HF_HOME=/var/lib/spillway/models VLLM_CACHE_ROOT=/var/lib/spillway/vllm
WORKDIR /var/lib/spillway
USER spillway
EXPOSE 7071
HEALTHCHECK --interval=10s --timeout=4s --start-period=900s CMD ["python3", "-m", "spillway.probe", "127.0.0.1:7071"]
ENTRYPOINT ["python3", "-m", "services.local_engine"]
CMD ["--config", "/etc/spillway/spillway.yaml"]
