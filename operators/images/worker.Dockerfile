# What runs steps: training, synthesis, federation and audits, in Jobs and in Ray's pods.
#
#   make images        collects the wheels and builds every image (TORCH=cuda for GPUs)
#
# Nothing is fetched while it is built or run: packages come from dist/wheels/worker, pinned by
# constraints.txt. The base is named by tag; name it by digest too where you build for patients:
#   docker build --build-arg PYTHON_DIGEST=sha256:... -f operators/images/worker.Dockerfile .
ARG PYTHON_TAG=3.11.14-slim-bookworm
ARG PYTHON_DIGEST=

FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS build
COPY dist/wheels/worker /wheels
COPY constraints.txt /constraints.txt
RUN pip install --no-cache-dir --no-index --find-links /wheels --constraint /constraints.txt \
      --prefix /install --compile "primum[postgres,operator,data,train,ray,federated,pipelines]"

FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}
LABEL org.opencontainers.image.title="primum-worker" \
      org.opencontainers.image.licenses="Apache-2.0"
# decision 0003: nothing phones home.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp OMP_NUM_THREADS=1 \
    RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 GX_ANALYTICS_ENABLED=false \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# Below /usr/local, because KubeRay starts Ray from a login shell, which knows no other PATH.
COPY --from=build /install /usr/local
# A number, so that Kubernetes can tell that it is not root; nobody's on the node.
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "primum.entrypoints.walk", "/var/run/primum/steps"]
