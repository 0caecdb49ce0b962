#!/bin/sh
# Locks what the image installs, and what builds it, by version and hash. With uv on the PATH, run
# deploy/lock.sh to bring in what pyproject.toml now asks for; to take newer versions too, remove
# deploy/lock/*.txt first. Any processor and any Python from 3.11 on.
set -eu
cd "$(dirname "$0")/.."

lock() {
    name=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-header --no-emit-index-url "$@" --output-file "deploy/lock/$name.txt"
}

lock serving pyproject.toml
lock grpc pyproject.toml --extra grpc --constraints deploy/lock/serving.txt
lock tracing pyproject.toml --extra tracing --constraints deploy/lock/serving.txt
python3 -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], "cmake", "ninja", sep="\n")' | lock build -
