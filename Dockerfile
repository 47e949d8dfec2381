# CPU:   docker build -t forecast .
# CUDA:  docker build -t forecast:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#        docker run --gpus all -v "$PWD/runs:/runs" forecast:cuda train demo --out /runs/demo
# The steps are those of scripts/setup.sh; PyPI's Linux build of PyTorch brings its own CUDA libraries.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# First what the environment depends on, so that a change in the code does not install everything again.
WORKDIR /opt/forecast
COPY pyproject.toml README.md LICENSE ./
COPY scripts/setup.sh scripts/setup.sh
COPY forecast/__init__.py forecast/__init__.py
RUN FORECAST_TORCH="$TORCH" FORECAST_EXTRAS=tensorboard PIP_EXTRA_INDEX_URL="$TORCH_INDEX" PIP_NO_CACHE_DIR=1 \
    bash scripts/setup.sh
COPY . .

RUN useradd --create-home --uid 1000 forecast && install --directory --owner forecast /runs
USER 1000:1000
WORKDIR /runs
VOLUME /runs
ENV PATH=/opt/forecast/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["forecast"]
CMD ["--help"]
