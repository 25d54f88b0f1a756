# Sourced by scripts/bench and scripts/test: makes .venv from a lock file when that lock changed, and nothing otherwise.
# A second start only compares two short files, so that it costs milliseconds.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HALFWEIGHT_VENV:-$root/.venv}

say() { printf 'halfweight: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${HALFWEIGHT_PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    say "Python 3.11 or newer was not found. Install it (Debian/Ubuntu: apt-get install python3 python3-venv) or set HALFWEIGHT_PYTHON."
    return 1
}

# Debian and Ubuntu ship venv without ensurepip; the fix is one package, which we install when we may.
make_venv() {
    local python=$1 package
    "$python" -m venv --clear "$venv" >/dev/null 2>&1 && [ -x "$venv/bin/pip" ] && return 0
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $package, which this Python needs to make an environment"
        { apt-get update -qq && apt-get install -y -qq "$package"; } >/dev/null 2>&1 \
            || { say "apt-get install $package failed; run it by hand to see why"; return 1; }
        "$python" -m venv --clear "$venv" && return 0
    fi
    say "$python cannot make a virtual environment. Run: sudo apt-get install $package   and start again."
    return 1
}

# ensure_env LOCK_FILE
ensure_env() {
    local lock=$root/$1 stamp=$venv/.lock-$1 python
    cmp -s "$lock" "$stamp" && [ -x "$venv/bin/python" ] && return 0
    python=$(find_python) || exit 2
    exec 9>"$root/.venv.lock"
    if command -v flock >/dev/null; then flock 9; fi
    # Another start may have set it up meanwhile. The lock must not travel into what is started next.
    cmp -s "$lock" "$stamp" && [ -x "$venv/bin/python" ] && { exec 9>&-; return 0; }
    say "setting up the environment from $1 (once, about a minute)"
    [ -x "$venv/bin/pip" ] || make_venv "$python" || exit 2
    "$venv/bin/pip" install -qq --disable-pip-version-check --no-deps --require-hashes -r "$lock" \
        || { say "installing the packages of $1 failed; the lines above say why"; exit 2; }
    cp "$lock" "$stamp"
    # The test environment holds everything that the run environment does, at the same versions.
    exec 9>&-
    [ "$1" != requirements-dev.lock ] || cp "$root/requirements.lock" "$venv/.lock-requirements.lock"
}

# load_dotenv: the variables of .env that are not set already, as Compose reads them (NAME=VALUE, no expansion).
load_dotenv() {
    local line name value
    [ -f "$root/.env" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        [[ $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
        name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]%$'\r'}
        value=${value%%[[:space:]]#*}
        value=${value%"${value##*[![:space:]]}"}
        [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]] && value=${BASH_REMATCH[1]}
        [ -n "${!name+set}" ] || export "$name=$value"
    done <"$root/.env"
}
