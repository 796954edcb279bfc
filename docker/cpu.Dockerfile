# SegLens on CPUs, at the tested versions. From the root of the project:
#   docker build --file docker/cpu.Dockerfile --tag seglens .
#   docker run --rm --publish 8000:8000 --env SEGLENS_API_KEY=... seglens
FROM python:3.11-slim AS wheel
WORKDIR /project
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/data/hub
RUN useradd --create-home --uid 1000 seglens && mkdir /data && chown seglens /data
COPY constraints.txt /tmp/
COPY --from=wheel /wheels /tmp/wheels
# The index of CPU builds spares gigabytes of CUDA
RUN python -m pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint /tmp/constraints.txt "$(echo /tmp/wheels/*.whl)[serve,page,tools,tune]"
USER seglens
WORKDIR /data
# An image that cannot segment is not built
RUN seglens doctor
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["seglens"]
CMD ["serve", "--host", "0.0.0.0"]
