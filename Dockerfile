# Foghorn, every service in one image: `docker build -t foghorn .`
# Needs BuildKit (the cache mounts), which `docker compose build` and every current `docker build` use.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY migrations migrations
# Members of the workspace: cargo wants their manifests, nothing of them is built.
COPY tests tests
COPY xtask xtask
COPY docs/publish/rust docs/publish/rust
# What is compiled stays in the caches; the binary must be taken out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p foghorn \
    && install -m 755 target/release/foghorn /usr/local/bin/foghorn

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="foghorn" \
      org.opencontainers.image.description="Publish once, heard everywhere: events over Server-Sent Events, in order, resumed" \
      org.opencontainers.image.source="https://github.com/foghorn-push/foghorn" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/foghorn /usr/local/bin/foghorn
# The working directory is where `standalone` keeps its events unless told otherwise: mount a volume on it.
RUN install -d -o 65532 -g 65532 -m 750 /data
WORKDIR /data
# A number, so that `runAsNonRoot` can be checked without the image's user list.
USER 65532:65532
# HTTP; health and metrics; gRPC of fan-out; gRPC of the event log.
EXPOSE 8080 9090 50051 50052
ENTRYPOINT ["foghorn"]
CMD ["--help"]
