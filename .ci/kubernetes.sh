#!/usr/bin/env bash
# Install the packages that a Kubernetes node needs, and build Kubernetes 1.20 in FOLDER, if it is not there.
#
#   .ci/kubernetes.sh FOLDER
#
# Debian has no package of the servers, only their source. Takes 8 minutes of CPU time, and 4 GB meanwhile.
set -euo pipefail

folder=$PWD/$1
build=$folder/build
tree=$build/go/src/k8s.io/kubernetes
servers=(kube-apiserver kube-controller-manager kube-scheduler kubelet)
here=$(cd "$(dirname "$0")" && pwd)
vendored=github.com/modern-go/reflect2
staging=k8s.io/kubernetes/vendor/k8s.io

refuse() {
    echo "${folder##*/}: $*, so there can be no Kubernetes here" >&2
    exit 2
}

# apt-get with the sources of this machine's packages.
apt_source() {
    apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$build/sources" \
        -o Dir::State::lists="$build/lists" -o APT::Sandbox::User=root "$@"
}

list_sources() {
    local file
    mkdir -p "$build/sources" "$build/lists/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ -f "$file" ] || continue
        case $file in
        *.list) sed -n 's/^deb /deb-src /p' "$file" ;;
        *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" ;;
        esac >"$build/sources/${file##*/}"
    done
    find "$build/sources" -empty -delete
}

unpack() {
    (cd "$build" && apt_source source --download-only kubernetes)
    mkdir -p "$tree"
    tar xzf "$build"/kubernetes_1.20.*.orig.tar.gz -C "$tree" --strip-components=1
    # With Go 1.18 or newer, the release of this package that it contains corrupts memory.
    rm -r "$tree/vendor/$vendored"
    cp -rL "/usr/share/gocode/src/$vendored" "$tree/vendor/$vendored"
}

# The API's description is generated from the types that ask for it.
describe_api() {
    local package packages=()
    go build -o "$build/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    while read -r package; do
        case $package in
        staging/src/*) packages+=(-i "k8s.io/kubernetes/vendor/${package#staging/src/}") ;;
        *) packages+=(-i "k8s.io/kubernetes/$package") ;;
        esac
    done < <(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd staging/src/k8s.io |
        grep -vE '_test\.go|/testdata/|sample-|code-generator|/test/' | xargs -n1 dirname | sort -u)
    "$build/openapi-gen" -O zz_generated.openapi -p k8s.io/kubernetes/pkg/generated/openapi "${packages[@]}" \
        -h hack/boilerplate/boilerplate.generatego.txt -r "$build/violations" 2>"$build/openapi.log"
}

build_servers() {
    local path name flags="-s -w"
    for path in component-base client-go/pkg; do
        path=$staging/$path/version
        flags="$flags -X $path.gitVersion=v1.20.2 -X $path.gitMajor=1 -X $path.gitMinor=20"
    done
    for name in "${servers[@]}"; do
        echo "building $name"
        go build -ldflags "$flags" -o "$build/$name" "./cmd/$name"
        mv "$build/$name" "$folder/$name"
    done
}

is_built() {
    local name
    for name in "${servers[@]}"; do
        [ -x "$folder/$name" ] || return 1
    done
}

build_all() {
    rm -rf "$build"
    trap 'chmod -R u+w "$build" && rm -rf "$build"' EXIT
    list_sources
    apt_source update || refuse "there are no sources of Debian's packages"
    apt_source --print-uris source kubernetes 2>/dev/null | grep -q /kubernetes_1.20. ||
        refuse "there is no source package of Kubernetes 1.20"
    "$here/packages.sh" golang-1.19-go golang-github-modern-go-reflect2-dev || refuse "a package is missing (see above)"
    unpack
    export GO111MODULE=off GOFLAGS="" GOPATH=$build/go GOCACHE=$build/cache CGO_ENABLED=0 PATH=/usr/lib/go-1.19/bin:$PATH
    cd "$tree"
    describe_api
    build_servers
}

[ "$(id -u)" = 0 ] || refuse "this needs root"
command -v apt-get >/dev/null || refuse "there is no apt-get"
packages=(etcd-server containerd runc containernetworking-plugins iproute2 openssl)
command -v kubectl >/dev/null || packages+=(kubernetes-client)
"$here/packages.sh" "${packages[@]}" || refuse "a package is missing (see above)"
if ! is_built; then build_all; fi
"$folder/kubelet" --version
