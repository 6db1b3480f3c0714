# Answers who spent what on what, and whether the record is intact.
#
#   make images        collects the wheels and builds every image
#
# Nothing is fetched while it is built or run: packages come from dist/wheels/api, pinned by
# constraints.txt. The base is named by tag; name it by digest too where you build for patients:
#   docker build --build-arg PYTHON_DIGEST=sha256:... -f operators/images/api.Dockerfile .
ARG PYTHON_TAG=3.11.14-slim-bookworm
ARG PYTHON_DIGEST=

FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS build
COPY dist/wheels/api /wheels
COPY constraints.txt /constraints.txt
RUN pip install --no-cache-dir --no-index --find-links /wheels --constraint /constraints.txt \
      --prefix /install --compile "primum[operator,postgres]"

FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}
LABEL org.opencontainers.image.title="primum-api" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=build /install /usr/local
# A number, so that Kubernetes can tell that it is not root; nobody's on the node.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["python", "-m"]
CMD ["primum.entrypoints.api"]
