# The image of the worker: Prefect at ghost's version, with what makes Kubernetes jobs.
#   docker build -f deploy/kubernetes/worker.Dockerfile --build-arg BASE=PYTHON_IMAGE -t WORKER_IMAGE .
ARG BASE
FROM ${BASE}
RUN python -m pip install --no-cache-dir "prefect==3.8.8" "fastapi>=0.139,<0.151" "prefect-kubernetes>=0.8,<0.9"
