#!/bin/bash
# Set the virtual machine up: make, and then the set-up that every machine gets.

set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install --no-install-recommends make
make -C "${1:-/ztlab}" setup
