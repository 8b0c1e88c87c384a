# This clone and its requirements on Cloud TPU, for launch/gke.sh. On a TPU VM:
#
#   docker build --file=launch/docker/tpu.Dockerfile --tag=gcn_flax:tpu .
#   docker run --privileged --network=host --volume=/tmp/data:/data:ro \
#     gcn_flax:tpu --config=configs/folder.py --config.data.data_dir=/data --workdir=gs://BUCKET/runs/folder
#
# It runs as root, to whom the TPU's device files belong.
FROM python:3.11.14-slim-bookworm
WORKDIR /gcn_flax
COPY requirements.txt requirements-tpu.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements-tpu.txt -c constraints.txt
COPY gcn_flax gcn_flax
COPY configs configs
COPY data data
ENTRYPOINT ["python", "-m", "gcn_flax"]
