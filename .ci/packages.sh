#!/usr/bin/env bash
# Install these Debian packages where they are missing. They start no services: the tests start and stop their own.
set -euo pipefail
! dpkg -s "$@" >/dev/null 2>&1 || exit 0
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get -qq update
apt-get -qq -y install --no-install-recommends "$@" >/dev/null
