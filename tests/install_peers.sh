#!/usr/bin/env bash
# Installs the third-party programs that tests run as peers, from Debian's packages, without starting any as a service.
# Without root, or without apt, says so and leaves it to the tests to skip with their reason.
set -euo pipefail

packages=("$@")
[ $# -gt 0 ] || packages=(nginx libnginx-mod-rtmp stunnel4 coturn janus iproute2 ffmpeg espeak-ng chromium
    fonts-dejavu-core alsa-utils pulseaudio pulseaudio-utils srt-tools gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-bad-1.0
    python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-nice
    systemd systemd-container prometheus)

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "No apt-get here: tests that need ${missing[*]} are skipped." >&2
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Not root: tests that need ${missing[*]} are skipped. To run them: apt-get install ${missing[*]}" >&2
    exit 0
fi

# invoke-rc.d asks this file whether a service may start; 101 is no.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
saved=$policy.before-avatar-bridge
put_back() {
    rm -f "$policy"
    if [ -e "$saved" ]; then mv "$saved" "$policy"; fi
}
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# A run that was killed may have left our own policy there, with or without the machine's beside it.
ours='#!/bin/sh
# From tests/install_peers.sh of avatar-bridge, for as long as it installs.
exit 101'
if [ -e "$policy" ] && [ "$(cat "$policy")" != "$ours" ]; then mv "$policy" "$saved"; fi
printf '%s\n' "$ours" >"$policy"
chmod 755 "$policy"

echo "Installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "${missing[@]}"; } >&2; then
    echo "apt-get failed: tests that need ${missing[*]} are skipped." >&2
fi
