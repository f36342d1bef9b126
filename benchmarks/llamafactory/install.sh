#!/usr/bin/env bash
# LLaMA-Factory 0.9.5 in an environment of its own, for contract tests and side-by-side runs.
#
# Usage: bash benchmarks/llamafactory/install.sh DIRECTORY
#        export LLAMAFACTORY_PYTHON=DIRECTORY/bin/python
#        pytest -m llamafactory; python -m benchmarks.llamafactory.losses WORK_DIRECTORY
#
# Its requirements name torchaudio and gradio, which text data does not need: an empty package
# stands in for the first, the second is left out.
set -euo pipefail

directory=${1:?usage: install.sh DIRECTORY}
python=${PYTHON:-python3}

"$python" -m venv "$directory"
"$directory/bin/pip" install --quiet torch==2.13.0
"$directory/bin/pip" install --quiet torch==2.13.0 transformers==5.6.0 datasets==4.0.0 \
    accelerate==1.11.0 peft==0.18.1 trl==0.24.0 torchdata==0.11.0 deepspeed==0.19.8 \
    einops fire omegaconf matplotlib sentencepiece tiktoken scipy protobuf pydantic pyyaml \
    fastapi uvicorn sse-starlette "tyro<0.9" modelscope hf-transfer "av<=16"
"$directory/bin/pip" install --quiet --no-deps llamafactory==0.9.5
packages=$("$directory/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
mkdir -p "$packages/torchaudio"
touch "$packages/torchaudio/__init__.py"
"$directory/bin/python" -c 'import llamafactory; print("llamafactory", llamafactory.__version__)'
