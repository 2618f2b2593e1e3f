#!/bin/sh
# Makes speech.flac, the sample that `avatar-bridge demo` sends: needs espeak-ng and ffmpeg.
set -eu
cd "$(dirname "$0")"
raw=$(mktemp --suffix=.wav)
trap 'rm -f "$raw"' EXIT
espeak-ng -v en-us+f3 -s 178 -p 52 -w "$raw" \
  "Hello! I am an avatar, and you see me live through avatar bridge. \
It sends my voice to the cloud, and brings my face back, in step with every word. \
So, what shall we talk about today?"
# Peak at -3 dBFS; half a second of silence at the end, so that a loop pauses like a speaker does.
peak_db=$(ffmpeg -hide_banner -nostats -i "$raw" -af volumedetect -f null - 2>&1 | sed -n 's/.*max_volume: \(.*\) dB/\1/p')
gain_db=$(awk -v peak="$peak_db" 'BEGIN { print -3 - peak }')
ffmpeg -hide_banner -loglevel error -y -i "$raw" -af "volume=${gain_db}dB,apad=pad_dur=0.5" \
  -map_metadata -1 -fflags +bitexact -flags:a +bitexact -compression_level 12 -sample_fmt s16 speech.flac
