# docker build -t al-benchmark .                             for CPUs and NVIDIA GPUs: PyTorch's wheels carry CUDA
# docker run --rm -v "$PWD/results:/app/results" al-benchmark run jobs=auto
# docker run --rm --gpus all -v /data:/data -v "$PWD/results:/app/results" al-benchmark run grid=cifar10 data=/data
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# The environment first: it changes less often than the code.
COPY requirements.lock requirements-build.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements-build.lock \
 && pip install --no-cache-dir --no-deps --no-build-isolation --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
ENTRYPOINT ["python", "-m", "benchmark"]
CMD ["--help"]
