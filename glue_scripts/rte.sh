#!/bin/sh
# RTE with the paper's settings; see paper.sh for what can be changed.
set -eu
exec "$(dirname "$0")/paper.sh" rte "$@"
