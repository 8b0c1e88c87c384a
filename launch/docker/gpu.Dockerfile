# This clone and its requirements on NVIDIA GPUs. CUDA 12 comes with JAX's packages, the driver (525 or newer) from the host,
# which needs the NVIDIA Container Toolkit.
#
#   docker build --file=launch/docker/gpu.Dockerfile --tag=gcn_flax:gpu .
#   docker run --gpus=all --user="$(id -u):$(id -g)" --volume="$PWD/DATA:/data:ro" --volume="$PWD/runs:/runs" \
#     gcn_flax:gpu --config=configs/folder.py --config.data.data_dir=/data --workdir=/runs/folder
FROM python:3.11.14-slim-bookworm
WORKDIR /gcn_flax
COPY requirements.txt requirements-gpu.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements-gpu.txt -c constraints.txt
COPY gcn_flax gcn_flax
COPY configs configs
COPY data data
# Any other user works as well: caches of libraries go to HOME, and Python asks USER for the name of an unknown id.
ENV HOME=/tmp USER=gcn_flax NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
ENTRYPOINT ["python", "-m", "gcn_flax"]
