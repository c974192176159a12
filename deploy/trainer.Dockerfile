# The reference trainer: docker build -t bss-trainer -f deploy/trainer.Dockerfile .
# PyPI's torch for Linux is the CUDA build, several GB; PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS may name a place that has
# the CPU build of the same version, which is preferred then.
# --ignore-requires-python: pymdown-extensions asks for Python 3.11.5, and Debian's own, 3.11.2, does for what is used of it.
FROM python:3.11-slim AS build
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
COPY . /src
RUN python -m venv --without-pip /opt/bss \
 && pip --python /opt/bss install --no-cache-dir --ignore-requires-python --constraint /src/requirements.lock "/src[trainer]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --home-dir /tmp bss \
 && install --directory --owner bss --group bss --mode 700 /checkpoints
ENV PATH=/opt/bss/bin:$PATH
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "trainer_client.reference"]
COPY --from=build /opt/bss /opt/bss
