#!/bin/sh
# The control socket is plain HTTP: whatever synapsectl does, curl does too.
#
#   examples/control-socket.sh [SOCKET]        (default: where `synapsed run` puts it)
set -eu

socket=${1:-${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/synapsed/control.sock}
ask() {
    curl --silent --show-error --fail-with-body --unix-socket "$socket" "http://synapsed$1"
    echo
}

echo "# the daemon at a glance"
ask /v1/status

echo "# who is connected"
ask "/v1/peers?which=connected"

echo "# models whose manifest is here"
ask /v1/models

echo "# take a folder into the store; progress comes as server-sent events"
echo "#   curl --unix-socket $socket -H 'content-type: application/json' \\"
echo "#        -d '{\"path\": \"/path/to/model\"}' http://synapsed/v1/models/import"

echo "# ten seconds of events"
curl --silent --no-buffer --max-time 10 --unix-socket "$socket" http://synapsed/v1/events || true

echo "# everything else: the OpenAPI document"
ask /openapi.json | head -c 300
echo
