# The validator: stateless, so it scales by replicas.
# docker build -f deploy/images/validator.Dockerfile -t spillway/validator .
FROM python:3.11.14-slim-bookworm AS built
COPY requirements/validator.txt /locks/
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --no-deps -r /locks/validator.txt
COPY spillway /app/spillway
COPY services/__init__.py /app/services/
COPY services/validator /app/services/validator
RUN /venv/bin/python -m compileall -q /app

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/spillway --create-home spillway
COPY --from=built /venv /venv
COPY --from=built /app /app
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GRPC_VERBOSITY=ERROR
WORKDIR /var/lib/spillway
USER spillway
EXPOSE 7073
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s CMD ["python", "-m", "spillway.probe", "127.0.0.1:7073"]
ENTRYPOINT ["python", "-m", "services.validator"]
CMD ["--config", "/etc/spillway/spillway.yaml"]
