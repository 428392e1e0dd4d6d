# shellcheck shell=bash
# A private, throw-away PostgreSQL server. Sourced by the scripts beside this folder.
#
# `postgres_start` finds or installs PostgreSQL's server programs, starts a cluster of its own in a
# fresh folder and exports how to reach it; `postgres_stop` ends and deletes it. Should the script
# be killed, a guard process sees its end of a pipe close and does the same.
#
#   PERENNIAL_TEST_POSTGRES_URL    a superuser's URL, over TCP on 127.0.0.1, with a random password
#   PERENNIAL_TEST_POSTGRES_BIN    the folder of pg_ctl and the other programs
#   PERENNIAL_TEST_POSTGRES_DATA   the cluster's data folder; sockets are in the folder above it
#   PERENNIAL_TEST_POSTGRES_USER   the ordinary user that owns the server, for restarting it
#
# Read: PERENNIAL_TEST_POSTGRES_BIN (use these programs), PERENNIAL_TEST_POSTGRES_FSYNC=off (faster,
# and no test of durability any more).

postgres_say() { printf '%s\n' "$*" >&2; }

# Prints the folder with the server programs of the newest version found.
postgres_find() {
    local folder newest=""
    if [ -n "${PERENNIAL_TEST_POSTGRES_BIN:-}" ]; then
        printf '%s\n' "$PERENNIAL_TEST_POSTGRES_BIN"
        return
    fi
    local candidates=()
    # pg_config alone may come from a client package, so every candidate is checked for initdb.
    if command -v pg_config >/dev/null; then candidates+=("$(pg_config --bindir)"); fi
    while IFS= read -r folder; do candidates+=("$folder"); done \
        < <(printf '%s\n' /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin | sort -rV)
    if command -v initdb >/dev/null; then candidates+=("$(dirname "$(command -v initdb)")"); fi
    for folder in "${candidates[@]}"; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && [ -x "$folder/pg_ctl" ]; then
            newest="$folder"
            break
        fi
    done
    [ -n "$newest" ] && printf '%s\n' "$newest"
}

# Installs Debian's package, or says what to install.
postgres_install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        postgres_say "PostgreSQL's server programs (initdb, pg_ctl, postgres) were not found."
        postgres_say "Install them: apt-get install postgresql (Debian, Ubuntu), dnf install" \
            "postgresql-server (Fedora), brew install postgresql (macOS), or set" \
            "PERENNIAL_TEST_POSTGRES_BIN to their folder."
        return 1
    fi
    postgres_say "installing PostgreSQL's server programs"
    # The package would start a cluster of the whole machine; nobody asked for that one.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/no-main-cluster.conf
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends postgresql >&2
}

# The user that owns the server: initdb refuses root.
postgres_owner() {
    if [ "$(id -u)" != 0 ]; then id -un; return; fi
    local user
    for user in postgres nobody; do
        if id -u "$user" >/dev/null 2>&1; then printf '%s\n' "$user"; return; fi
    done
    useradd --system --no-create-home perennial-test && printf 'perennial-test\n'
}

# Runs a command as PERENNIAL_TEST_POSTGRES_USER.
postgres_as_owner() {
    local user="$PERENNIAL_TEST_POSTGRES_USER"
    if [ "$(id -un)" = "$user" ]; then
        "$@"
    elif command -v setpriv >/dev/null; then
        setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --clear-groups -- "$@"
    elif command -v runuser >/dev/null; then
        runuser -u "$user" -- "$@"
    else
        su -s /bin/sh "$user" -c '"$0" "$@"' -- "$@"
    fi
}

# A fresh folder that the owner can reach and whose path is short enough for a socket.
postgres_folder() {
    local base folder
    for base in "${TMPDIR:-/tmp}" /tmp; do
        [ "${#base}" -le 60 ] || continue
        postgres_as_owner test -x "$base" || continue
        folder="$(mktemp -d "$base/perennial-postgres.XXXXXX")" || continue
        chown "$PERENNIAL_TEST_POSTGRES_USER" "$folder" && printf '%s\n' "$folder"
        return
    done
    postgres_say "no folder for a throw-away cluster: neither TMPDIR nor /tmp is usable"
    return 1
}

# Starts the cluster on a free port. Ports are taken below the range from which systems give out
# their own, so that the port is still free when a test starts the server again.
postgres_start_on_free_port() {
    local data="$PERENNIAL_TEST_POSTGRES_DATA" log="$POSTGRES_FOLDER/log" attempt
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        POSTGRES_PORT=$((20000 + (RANDOM + attempt) % 12000))
        if (exec 3<>"/dev/tcp/127.0.0.1/$POSTGRES_PORT") 2>/dev/null; then continue; fi
        echo "port = $POSTGRES_PORT" >>"$data/postgresql.conf"
        if postgres_as_owner "$PERENNIAL_TEST_POSTGRES_BIN/pg_ctl" start -s -w -t 60 -D "$data" -l "$log" \
            >&2 </dev/null 9>&-; then
            return
        fi
        grep -q "Address already in use" "$log" || break
    done
    postgres_say "PostgreSQL did not start; its log:"
    cat "$log" >&2
    return 1
}

postgres_start() {
    local bin password cd_from="$PWD"
    bin="$(postgres_find)" || { postgres_install && bin="$(postgres_find)"; } || return 1
    export PERENNIAL_TEST_POSTGRES_BIN="$bin"
    PERENNIAL_TEST_POSTGRES_USER="$(postgres_owner)" || return 1
    export PERENNIAL_TEST_POSTGRES_USER
    POSTGRES_FOLDER="$(postgres_folder)" || return 1
    export PERENNIAL_TEST_POSTGRES_DATA="$POSTGRES_FOLDER/data"
    postgres_guard
    # A folder that the owner may not enter would make its programs complain.
    cd / || return 1

    password="$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"
    # The file is the owner's alone before the password is in it.
    postgres_as_owner sh -c 'umask 077; : >"$0/password"' "$POSTGRES_FOLDER"
    printf '%s\n' "$password" >"$POSTGRES_FOLDER/password"
    if ! postgres_as_owner "$bin/initdb" -D "$PERENNIAL_TEST_POSTGRES_DATA" -U perennial \
        --pwfile="$POSTGRES_FOLDER/password" --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C --no-sync >"$POSTGRES_FOLDER/initdb.log" 2>&1; then
        postgres_say "initdb failed:"
        cat "$POSTGRES_FOLDER/initdb.log" >&2
        return 1
    fi
    cat >>"$PERENNIAL_TEST_POSTGRES_DATA/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$POSTGRES_FOLDER'
max_connections = 300
max_wal_size = 4GB
fsync = ${PERENNIAL_TEST_POSTGRES_FSYNC:-on}
CONF
    postgres_start_on_free_port || return 1
    cd "$cd_from" || return 1
    export PERENNIAL_TEST_POSTGRES_URL="postgres://perennial:$password@127.0.0.1:$POSTGRES_PORT/postgres"
}

postgres_stop() {
    [ -d "${POSTGRES_FOLDER:-}" ] || return 0
    if [ -f "$PERENNIAL_TEST_POSTGRES_DATA/postmaster.pid" ]; then
        (cd / && postgres_as_owner "$PERENNIAL_TEST_POSTGRES_BIN/pg_ctl" stop -s -w -m immediate \
            -D "$PERENNIAL_TEST_POSTGRES_DATA" >/dev/null 2>&1)
    fi
    rm -rf "$POSTGRES_FOLDER"
}

# Waits until file descriptor 9 of this script is closed, however the script ends. Programs that
# the script runs must not inherit it: `command 9>&-`.
postgres_guard() {
    exec 9> >(
        trap '' INT TERM HUP
        exec >/dev/null 2>&1
        while read -r _; do :; done
        postgres_stop
    )
}
