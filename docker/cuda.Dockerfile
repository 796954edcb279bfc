# SegLens on NVIDIA GPUs, at the tested versions. From the root of the project:
#   docker build --file docker/cuda.Dockerfile --tag seglens:cuda .
#   docker run --rm --gpus all --publish 8000:8000 --env SEGLENS_API_KEY=... seglens:cuda
# PyTorch's wheel brings CUDA's libraries; the host brings the driver and the NVIDIA Container Toolkit.
FROM python:3.11-slim AS wheel
WORKDIR /project
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/data/hub
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home --uid 1000 seglens && mkdir /data && chown seglens /data
COPY constraints.txt /tmp/
COPY --from=wheel /wheels /tmp/wheels
RUN python -m pip install --constraint /tmp/constraints.txt "$(echo /tmp/wheels/*.whl)[serve,page,tools,tune,train,quant]"
USER seglens
WORKDIR /data
# No GPU is there while an image is built: this checks all else
RUN seglens doctor
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["seglens"]
CMD ["serve", "--host", "0.0.0.0"]
