# Foghorn, every service in one image: `docker build -t foghorn .`
# Needs BuildKit (the cache mounts), which `docker compose build` and every current `docker build` use.

# Where it is compiled: a Debian with Rust and a C compiler.
ARG BUILDER=rust:1.95-bookworm
FROM ${BUILDER} AS build
# Lists what a program is made of.
RUN command -v cargo-cyclonedx || cargo install --locked --version 0.5.9 cargo-cyclonedx
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY migrations migrations
# Members of the workspace: cargo wants their manifests, nothing of them is built.
COPY tests tests
COPY xtask xtask
COPY docs/publish/rust docs/publish/rust
# When everything in the image was made, in seconds since 1970, so that the same source gives the same image.
ARG SOURCE_DATE_EPOCH=0
# Static, so that it needs nothing beside it. With a target, so that build scripts and macros are compiled as ever.
# What is compiled stays in the caches; the binary must be taken out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(rustc --print host-tuple)" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p foghorn --target "$target" \
    && install -D -m 755 "target/$target/release/foghorn" /image/usr/local/bin/foghorn
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    target="$(rustc --print host-tuple)" \
    && cargo cyclonedx --manifest-path crates/foghorn/Cargo.toml --target "$target" --no-build-deps \
       --format json --spec-version 1.5 --override-filename sbom.cdx \
    && install -D -m 644 crates/foghorn/sbom.cdx.json /image/usr/share/foghorn/sbom.cdx.json \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    # Names of /etc/hosts come before what name servers know: without this file the C library asks those alone.
    && echo "hosts: files dns" > /image/etc/nsswitch.conf \
    && install -d -m 750 -o 65532 -g 65532 /image/data \
    && find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch
LABEL org.opencontainers.image.title="foghorn" \
      org.opencontainers.image.description="Publish once, heard everywhere: events over Server-Sent Events, in order, resumed" \
      org.opencontainers.image.source="https://github.com/foghorn-push/foghorn" \
      org.opencontainers.image.documentation="https://github.com/foghorn-push/foghorn/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# The working directory is where `standalone` keeps its events unless told otherwise: mount a volume on it.
WORKDIR /data
# A number, so that `runAsNonRoot` can be checked without a list of users, which the image doesn't have.
USER 65532:65532
# HTTP; health and metrics; gRPC of fan-out; gRPC of the event log.
EXPOSE 8080 9090 50051 50052
ENTRYPOINT ["/usr/local/bin/foghorn"]
CMD ["--help"]
