# Tollbridge as an image: `docker build -t tollbridge .`
#
# For builds that give the same bytes each time, name the base by its digest: --build-arg PYTHON=python:3.13-slim@sha256:…
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
WORKDIR /app
COPY requirements/run.lock requirements/
# Wheels only, each checked against its hash: nothing is built, so that no compiler is needed.
RUN ["python3", "-m", "venv", "--without-pip", ".venv"]
RUN ["python3", "-m", "pip", "--python", ".venv/bin/python", "install", "--no-cache-dir", "--no-compile", \
     "--require-hashes", "--only-binary", ":all:", "--requirement", "requirements/run.lock"]
COPY pyproject.toml LICENSE ./
COPY tools/link_project.py tools/
COPY src src
RUN [".venv/bin/python", "tools/link_project.py"]
# The file system is read-only later: what Python would write beside its sources is written now, without times in it.
RUN [".venv/bin/python", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", ".venv/lib", "src"]
RUN ["install", "--directory", "--mode=0700", "--owner=65532", "--group=65532", "/image/data"]

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Tollbridge" \
      org.opencontainers.image.description="A self-hosted, OpenAI-compatible gateway that sells access to language models" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
# Files that the gateway writes: the SQLite database, the master secret, the spool. Nothing else is ever written to.
COPY --from=build /image/data /data
ENV PATH=/app/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLBRIDGE_HOST=0.0.0.0 \
    TOLLBRIDGE_DATA_DIR=/data
# tollbridge.toml is looked for in the working directory: mount it there.
WORKDIR /etc/tollbridge
VOLUME /data
EXPOSE 8000
USER 65532:65532
# Running requests have 120 s to end: give it 150 (--stop-timeout 150, stop_grace_period, terminationGracePeriodSeconds).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('TOLLBRIDGE_PORT', '8000')), timeout=3); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["tollbridge"]
CMD ["serve"]
