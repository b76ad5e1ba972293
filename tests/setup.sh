#!/usr/bin/env bash
# Prepares what the tests need besides Rust, below target/: interpreters with debugpy, and a DAP client for node.
#
#   target/python/3.11-1.8.22/   a virtual environment of CPython 3.11 with debugpy 1.8.22, and so on
#   target/python/integrations/  one with the frameworks of tests/integrations.rs
#   target/python/suites/        packages of others with their tests, which it runs too
#   target/matrix/3.8-1.8.21/    the versions of CPython that are not there, for what must work on every one
#   target/node/                 @vscode/debugadapter-testsupport
#   target/python/ready          a copy of this script: everything that it asks for is there
#
# What is there already is left alone, so running it again costs next to nothing, and several runs at once wait for
# each other. An interpreter or node that this machine lacks is named on stderr and passed over; with CI=true that is
# a failure.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# CPython, debugpy, and what else is in there. 1.8.21 is the newest that 3.9 can have; 1.6.7 stands for the old ones
# that people still run.
environments='
3.9  1.6.7
3.9  1.8.21
3.11 1.8.22
3.13 1.8.22 pytest==8.4.2 pytest-xdist==3.8.0
'
# What people run their programs with.
integrations='3.13 debugpy==1.8.22 gunicorn==27.0.1 uvicorn==0.54.0 flask==3.1.3 django==6.1.3 celery==5.7.0'
# Packages that start processes in their own tests, and what those need; the directory has their sources.
suites='execnet==2.1.2 plumbum==2.0.2'
integrations="$integrations $suites pytest==8.4.2 pytest-xdist==3.8.0 pytest-timeout==2.4.0"
integrations="$integrations pytest-asyncio==1.5.0 pytest-mock==3.17.0 hatchling==1.33.0 hatch-vcs==0.5.0"
# The other versions that the agent is for, each with the newest debugpy that it can have.
matrix='
3.8  1.8.21
3.10 1.8.22
3.12 1.8.22
'
testsupport=1.68.0
missing=0

say() { printf 'tests/setup.sh: %s\n' "$*" >&2; }

lack() {
    say "$*"
    missing=1
}

# Prints the first interpreter of the version that really runs: pyenv puts commands on PATH that only explain
# that the version is not chosen.
interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/"python$1"; do
        "$candidate" -c 'import ensurepip, sys, venv
sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" 2>/dev/null || continue
        printf '%s\n' "$candidate"
        return
    done
    return 1
}

# The mark is written last, so that a run that was interrupted is made again from the start; it says what else is there.
environment() {
    local directory=$1 version=$2 packages=$3 python
    [ -e "$directory/ready" ] && [ "$(cat "$directory/ready")" = "$packages" ] && return
    if ! python=$(interpreter "$version"); then
        lack "no CPython $version here, passed over: tests with $directory do not run"
        return
    fi
    say "making $directory"
    rm -rf "$directory"
    "$python" -m venv "$directory"
    # shellcheck disable=SC2086 # $packages is words.
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: $packages
    printf '%s' "$packages" >"$directory/ready"
}

# pip builds nothing of the sources but their metadata, with what is in the environment.
suites() {
    local directory=target/python/suites python=target/python/integrations/bin/python suite
    [ -e "$directory/ready" ] && [ "$(cat "$directory/ready")" = "$suites" ] && return
    [ -x "$python" ] || return 0 # It has been said.
    say "making $directory"
    rm -rf "$directory"
    mkdir -p "$directory"
    for suite in $suites; do
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
            --no-binary "${suite%%=*}" --dest "$directory" "$suite"
        tar -xzf "$directory/${suite%%=*}-${suite##*=}.tar.gz" -C "$directory"
    done
    printf '%s' "$suites" >"$directory/ready"
}

node_client() {
    local directory=target/node
    [ -e "$directory/ready-$testsupport" ] && return
    if ! node --version >/dev/null 2>&1 || ! npm --version >/dev/null 2>&1; then
        lack 'no node with npm here, passed over: tests with a node client do not run'
        return
    fi
    say "making $directory"
    rm -rf "$directory"
    mkdir -p "$directory"
    printf '{ "private": true }\n' >"$directory/package.json"
    npm install --prefix "$directory" --loglevel error --no-audit --no-fund --save-exact \
        "@vscode/debugadapter-testsupport@$testsupport" >&2
    touch "$directory/ready-$testsupport"
}

# The lock is held by descriptor 9 of this shell and ends with it, however it ends.
lock() {
    exec 9>target/python/lock
    if command -v flock >/dev/null; then
        flock 9
    else
        python3 -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    fi
}

# The tests take every environment that they find: those of an earlier list go.
environments() {
    local root=$1 list=$2 version debugpy more directory name
    mkdir -p "$root"
    while read -r version debugpy more; do
        [ -n "$version" ] || continue
        environment "$root/$version-$debugpy" "$version" "debugpy==$debugpy${more:+ $more}" </dev/null 9>&-
    done <<<"$list"
    for directory in "$root"/*-*/; do
        name=$(basename "$directory")
        grep -Eq "^${name%-*} +${name#*-}( |$)" <<<"$list" || rm -rf "$directory"
    done
}

mkdir -p target/python
lock
environments target/python "$environments"
environments target/matrix "$matrix"
environment target/python/integrations "${integrations%% *}" "${integrations#* }" </dev/null 9>&-
suites </dev/null 9>&-
node_client </dev/null 9>&-

if [ "$missing" = 0 ]; then
    cp tests/setup.sh target/python/ready.new
    mv target/python/ready.new target/python/ready
elif [ "${CI:-}" = true ]; then
    say 'this is CI, where nothing may be passed over'
    exit 1
fi
