# syntax=docker/dockerfile:1
#
#   docker build --target cpu --tag hysac:cpu .
#   docker build --target gpu --tag hysac:gpu .      run it with --gpus all
#
# Both targets are the same recipe, docker/install.sh, with the CPU or the GPU build of ONNX Runtime; CUDA comes from
# PyPI with the latter, so the machine needs a driver and the NVIDIA container toolkit and nothing else.
#
# The CPU's stages come first: a builder without BuildKit builds every stage above the one that it is asked for.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ENV PATH=/opt/hysac/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 hysac \
    && install --directory --owner hysac --group hysac /data /home/hysac/.cache
WORKDIR /data

FROM python:${PYTHON}-slim AS build-cpu
COPY . /src
RUN sh /src/docker/install.sh cpu /opt/hysac

FROM base AS cpu
COPY --from=build-cpu /opt/hysac /opt/hysac
USER 10001
ENTRYPOINT ["hysac"]
CMD ["--help"]

FROM python:${PYTHON}-slim AS build-gpu
COPY . /src
RUN sh /src/docker/install.sh gpu /opt/hysac

FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/hysac /opt/hysac
USER 10001
ENTRYPOINT ["hysac"]
CMD ["--help"]

# Without --target the image is the CPU's.
FROM cpu
