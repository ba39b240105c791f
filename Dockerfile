# Nightshift as a container image, with the runtime for CPUs or for NVIDIA GPUs:
#
#   docker build --target cpu --tag nightshift:cpu .
#   docker build --target gpu --tag nightshift:gpu .      # x86-64; driver 580 or newer on the host, run with --gpus all
#
#   docker run --read-only --volume nightshift:/var/lib/nightshift --publish 127.0.0.1:8080:8080 --env AWS_REGION=… nightshift:cpu
#
# Only /var/lib/nightshift is written. Base images are named by tag, so that a build takes their security fixes; for a build that
# can be repeated to the byte, give digests: --build-arg RUST_IMAGE=rust@sha256:… --build-arg BASE_IMAGE=debian@sha256:…

ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

# The binary. It links no runtime: which one it loads is a matter of the last stage.
FROM ${RUST_IMAGE} AS build
# The image's own toolchain is the one that is pinned; the file would have rustup fetch its lints as well.
ENV RUSTUP_TOOLCHAIN=1.95.0
# jemalloc is built by its own makefile.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY migrations migrations
# Cargo wants to see the benchmarks that Cargo.toml names.
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && install -D target/release/nightshift /out/nightshift

# What fetches libraries, and stays behind.
FROM ${BASE_IMAGE} AS fetch
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src

FROM fetch AS onnxruntime-cpu
COPY scripts/fetch-onnxruntime scripts/
RUN scripts/fetch-onnxruntime --into /opt/onnxruntime

# What both images share.
FROM ${BASE_IMAGE} AS service
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 nightshift \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/nightshift --shell /usr/sbin/nologin nightshift \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/nightshift
COPY LICENSE /usr/share/doc/nightshift/
COPY --from=build /out/nightshift /usr/local/bin/nightshift
ENV NIGHTSHIFT_LISTEN=0.0.0.0:8080 \
    NIGHTSHIFT_DATA_DIR=/var/lib/nightshift \
    ORT_DYLIB_PATH=/opt/onnxruntime/lib/libonnxruntime.so
WORKDIR /var/lib/nightshift
VOLUME ["/var/lib/nightshift"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s --retries=3 CMD ["nightshift", "healthcheck"]
ENTRYPOINT ["nightshift"]
CMD ["serve"]
LABEL org.opencontainers.image.title="Nightshift" \
      org.opencontainers.image.description="Self-hosted batch inference: POST a model and a bucket prefix, get predictions back in the bucket" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM service AS cpu
COPY --from=onnxruntime-cpu /opt/onnxruntime /opt/onnxruntime
USER 10001:10001

FROM fetch AS onnxruntime-gpu
COPY scripts/fetch-onnxruntime scripts/
RUN scripts/fetch-onnxruntime --gpu --into /opt/onnxruntime

FROM fetch AS cuda
COPY scripts/fetch-cuda scripts/
COPY docker/cuda-requirements.txt docker/
RUN scripts/fetch-cuda --into /opt/cuda

FROM service AS gpu
COPY --from=onnxruntime-gpu /opt/onnxruntime /opt/onnxruntime
COPY --from=cuda /opt/cuda /opt/cuda
# The provider library names what it needs without saying where that is. The driver's own libcuda.so.1 is the host's: the NVIDIA
# container toolkit puts it there.
RUN echo /opt/cuda/lib > /etc/ld.so.conf.d/nightshift-cuda.conf && ldconfig
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NIGHTSHIFT_PROVIDERS=cuda
USER 10001:10001

# What a build without --target makes.
FROM cpu
