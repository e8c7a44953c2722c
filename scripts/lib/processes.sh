# shellcheck shell=bash
# The processes of a set: which are ours, and signals to them. Read by scripts/servers. It must never
# touch a process that the set did not start.

readonly STOP_SECS=30      # then SIGKILL

# Every process of SERVER, one pid a line. Asked as the server's user: in a container even root may
# not read the /proc/PID/cwd of another user's process.
pids() {
    local server=$1 pid name DROP
    drop "$server"
    # shellcheck disable=SC2016
    "${DROP[@]}" sh -c 'cd / && find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$1" -o -lname "$1/*" \) \
        2>/dev/null' sh "$FROM_HERE/$server" | while IFS=/ read -r _ _ pid _; do
        name=; { read -r name <"/proc/$pid/comm"; } 2>/dev/null || continue
        case $server:$name in
            *:servers | *:setsid | *:setpriv | *:env) echo "$pid" ;;
            postgres:postgres | postgres:initdb | replica:postgres | replica:pg_basebackup | \
                redis*:redis-* | redis*:valkey-* | sentinel-*:redis-* | sentinel-*:valkey-*)
                echo "$pid" ;;
            rabbitmq:rabbitmq-server | rabbitmq:erl* | rabbitmq:beam* | rabbitmq:epmd | \
                rabbitmq:inet_gethost) echo "$pid" ;;
        esac
    done || true
}

main_pid() {
    local pid name
    for pid in $(pids "$1"); do
        name=; { read -r name <"/proc/$pid/comm"; } 2>/dev/null || continue
        case $1:$name in
            rabbitmq:beam* | redis*:redis-* | redis*:valkey-* | sentinel-*:redis-* | \
                sentinel-*:valkey-*) echo "$pid"; return 0 ;;
            postgres:postgres | replica:postgres)
                # The postmaster is the one whose parent is not Postgres.
                local status parent
                status=$(cat "/proc/$pid/status" 2>/dev/null) || continue
                parent=$(sed -n 's/^PPid:[[:space:]]*//p' <<<"$status")
                name=; { read -r name <"/proc/$parent/comm"; } 2>/dev/null || true
                [[ $name == postgres ]] || { echo "$pid"; return 0; } ;;
        esac
    done
    return 1
}

# A zombie counts as gone: in a container whose init reaps nobody it would stay for ever.
alive() {
    local stat=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    stat=${stat##*) }
    [[ ${stat:0:1} != [ZX] ]]
}

# signal SIGNAL SERVER: twice, as a process may fork while the first round goes through the list.
signal() {
    local found
    for _ in 1 2; do
        found=$(pids "$2")
        # shellcheck disable=SC2086
        [[ -z $found ]] || kill "-$1" $found 2>/dev/null || true
    done
}

kill_server() {
    local found
    while found=$(pids "$1"); [[ -n $found ]]; do
        # shellcheck disable=SC2086
        kill -KILL $found 2>/dev/null || true
        sleep 0.02
    done
}

stop_server() {
    local main deadline=$((SECONDS + STOP_SECS))
    if main=$(main_pid "$1"); then
        signal CONT "$1"
        # SIGINT is Postgres's fast shutdown: it does not wait for clients to leave.
        case $1 in postgres | replica) kill -INT "$main" ;; *) kill -TERM "$main" ;; esac
        while alive "$main" && ((SECONDS < deadline)); do sleep 0.05; done
        ! alive "$main" || echo "servers: $1 did not stop in $STOP_SECS s, killed" >&2
    fi
    kill_server "$1"
}
