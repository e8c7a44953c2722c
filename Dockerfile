# One image for every role: the binary, and nothing else to log in to.
#   docker build -t rollcall .          docker run --rm rollcall --help
#   docker build --build-arg FEATURES=otlp -t rollcall .        one that can send spans

# Debian 12, as the runtime below: the same glibc. It has the C compiler that mimalloc and ring want.
FROM rust:1.95-slim-bookworm AS build
# Of Cargo.toml, separated by commas. Never fault-points.
ARG FEATURES=
WORKDIR /src
# The dependencies first, with an empty crate in place of ours: a change of our code then rebuilds
# ours alone. Every target that Cargo.toml names by path (tests, benches) has its stand-in too.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && sed -n 's/^path = "\(.*\.rs\)"$/\1/p' Cargo.toml | while read -r target; do \
        mkdir -p "$(dirname "$target")" && echo 'fn main() {}' >"$target"; \
    done \
    && cargo build --release --locked --features "$FEATURES" --bin rollcall \
    && rm -r src
COPY . .
# The stand-in may be newer than the files copied, and cargo goes by time.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --features "$FEATURES" --bin rollcall \
    && strip --strip-debug target/release/rollcall

# glibc, libgcc and CA certificates; no shell, no package manager; user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="rollcall" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /src/target/release/rollcall /usr/local/bin/rollcall
COPY --from=build /src/LICENSE /src/data/README.md /usr/share/doc/rollcall/
# Inside a container loopback reaches nobody; publish the ports, or not, outside: 9464 is the ops endpoint
# of a worker or of `serve`, 9465 what `serve` answers readers on.
ENV ROLLCALL_OPS_ADDR=0.0.0.0:9464 \
    ROLLCALL_SERVE_ADDR=0.0.0.0:9465 \
    ROLLCALL_LOG_FORMAT=json
EXPOSE 9464 9465
# By number, so that Kubernetes can tell that it is not root. The process itself forbids core dumps.
USER 65532:65532
# The worker's own drain: cancel, flush, settle, close.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/rollcall", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/rollcall"]
CMD ["worker"]
