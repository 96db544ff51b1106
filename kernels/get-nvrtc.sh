#!/usr/bin/env bash
# Unpacks NVIDIA's run-time compiler 12.4 into a folder, for machines without CUDA: 18 MB from the non-free part of the Debian mirror that this
# machine's apt is set up with. Nothing is installed. Prints the library's path, for KernelCompiler.
#   usage: kernels/get-nvrtc.sh DIR
set -euo pipefail
dir=${1:?usage: get-nvrtc.sh DIR}
library=$dir/usr/lib/x86_64-linux-gnu/libnvrtc.so.12
if [[ ! -e $library ]]; then
  mirror=$(grep -ohsE 'https?://[^ ]+/debian/?( |$)' -r /etc/apt/sources.list /etc/apt/sources.list.d | sed -n '1s/ *$//p') || true
  [[ -n $mirror ]] || { echo "get-nvrtc: apt on this machine has no Debian mirror" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$dir" "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie non-free" > "$work/sources"
  apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$work" && "${apt[@]}" download libnvrtc12 libnvrtc-builtins12.4)
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$dir"; done
fi
echo "$library"
