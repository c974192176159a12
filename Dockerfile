# The scheduler service: docker build -t bss-scheduler .
# Its packages are those of the extras `service` and `postgres`, in the versions of requirements.lock; no torch among them.
FROM python:3.11-slim AS build
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
COPY . /src
RUN python -m venv --without-pip /opt/bss \
 && pip --python /opt/bss install --no-cache-dir --constraint /src/requirements.lock "/src[postgres]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --home-dir /data bss \
 && install --directory --owner bss --group bss --mode 700 /data
ENV PATH=/opt/bss/bin:$PATH \
    BSS_HOST=0.0.0.0 \
    BSS_PORT=8765 \
    BSS_STORE=sqlite:////data/bss.sqlite \
    BSS_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8765
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-IS", "-c", "\
import os, sys; \
from http.client import HTTPConnection; \
service = HTTPConnection('127.0.0.1', int(os.environ['BSS_PORT']), timeout=4); \
service.request('GET', '/readyz'); \
sys.exit(service.getresponse().status != 200)"]
ENTRYPOINT ["bss"]
CMD ["serve"]
COPY --from=build /opt/bss /opt/bss
