#!/usr/bin/env bash
# Bring the real parts that the tests and the demo can use: Debian packages and the MongoDB-protocol server's jars.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package_of=(
  [dockerd]=docker.io [containerd]=containerd [runc]=runc [docker-compose]=docker-compose [busybox]=busybox-static
  [iptables]=iptables [ip]=iproute2 [nsenter]=util-linux [mount]=mount [umount]=mount [mkfs.ext4]=e2fsprogs
  [qemu-system-x86_64]=qemu-system-x86 [gcc]="gcc libc6-dev" [as]=binutils [ld]=binutils [strace]=strace
  [mosquitto]=mosquitto [mosquitto_pub]=mosquitto-clients [mosquitto_sub]=mosquitto-clients [bash]=bash [mvn]=maven
  [java]=openjdk-17-jdk-headless [javac]=openjdk-17-jdk-headless [jlink]=openjdk-17-jdk-headless
)
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive

packages=()
for program in "${!package_of[@]}"; do
  # shellcheck disable=SC2206 # one program may need several packages
  command -v "$program" >/dev/null || packages+=(${package_of[$program]})
done
if [ ${#packages[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  echo "setup-real: apt-get install ${packages[*]}"
  "${as_root[@]}" apt-get update -qq </dev/null
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null
fi

jars=.cache/mongo-server/lib
if ! compgen -G "$jars/mongo-java-server-h2-backend-*.jar" >/dev/null; then
  echo "setup-real: fetching the MongoDB-protocol server"
  mvn -B -q -f tests/testbed/mongo_server/pom.xml -Dmaven.repo.local="$PWD/.cache/maven" \
    dependency:copy-dependencies -DoutputDirectory="$PWD/$jars" </dev/null
fi
echo "setup-real: all real parts are there"
