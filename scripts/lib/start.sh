# shellcheck shell=bash
# Starting one server, and knowing when it answers. Read by scripts/servers.

readonly START_SECS=60     # a loaded two-core machine starts RabbitMQ in 4-15 s

# spawn SERVER COMMAND...: in a session of its own, so that Ctrl-C in a terminal is not for it, with
# nothing of our descriptors. Leaves the pid in CHILD.
spawn() {
    local PLACE DROP server=$1; shift
    place "$server"
    (
        cd "$DATA/$server"
        exec </dev/null >>"$DATA/$server/server.log" 2>&1 9>&-
        exec setsid "${PLACE[@]}" "$@"
    ) &
    CHILD=$!
}

rabbitmq_env() {
    local at=$SEEN/rabbitmq
    RABBITMQ_ENV=(
        RABBITMQ_NODENAME=rollcall@localhost RABBITMQ_DIST_PORT="$DIST_PORT"
        ERL_EPMD_PORT="$EPMD_PORT" ERL_EPMD_ADDRESS=127.0.0.1
        RABBITMQ_CONF_ENV_FILE="$at/none" RABBITMQ_CONFIG_FILE="$at/rabbitmq.conf"
        RABBITMQ_ENABLED_PLUGINS_FILE="$at/enabled_plugins"
        RABBITMQ_MNESIA_BASE="$at/mnesia" RABBITMQ_LOG_BASE="$at/log"
        RABBITMQ_GENERATED_CONFIG_DIR="$at/config" RABBITMQ_PID_FILE="$at/pid"
        # Busy-waiting schedulers would take the cores from whatever is measured beside them.
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none \
-kernel inet_dist_use_interface {127,0,0,1}"
        RABBITMQ_CTL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
        # The start script then becomes the Erlang machine instead of staying as its parent.
        detached=true
    )
}

launch_rabbitmq() {
    local at=$DATA/rabbitmq
    cat >"$at/rabbitmq.conf" <<CONF
listeners.tcp.local = 127.0.0.1:$AMQP_PORT
default_user = rollcall
default_pass = $RABBITMQ_SECRET
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
# 512 MiB unless set, kept in memory as well: too much for a small machine.
raft.wal_max_size_bytes = 134217728
CONF
    [[ -z $TLS ]] || { tls_files rabbitmq; rabbitmq_tls >>"$at/rabbitmq.conf"; }
    echo '[].' >"$at/enabled_plugins"
    own "$at/rabbitmq.conf" rabbitmq
    own "$at/enabled_plugins" rabbitmq
    rabbitmq_env
    # An epmd of this set alone: the machine's may belong to somebody, and would outlive the set.
    spawn rabbitmq ERL_EPMD_ADDRESS=127.0.0.1 epmd -port "$EPMD_PORT"
    spawn rabbitmq "${RABBITMQ_ENV[@]}" "$RABBITMQ_BIN/rabbitmq-server"
}

launch_postgres() {
    local at=$DATA/postgres
    if [[ ! -f $at/initialised ]]; then
        rm -rf "$at/data"
        printf '%s' "$POSTGRES_SECRET" >"$at/password"
        own "$at/password" postgres
        (cd "$at" && as postgres "$POSTGRES_BIN/initdb" --pgdata=data --username=rollcall \
            --pwfile=password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync \
            --no-instructions </dev/null >>"$at/server.log" 2>&1 9>&-) || return 1
        echo "include '../server.conf'" >>"$at/data/postgresql.conf"
        rm "$at/password"
        touch "$at/initialised"
    fi
    postgres_conf postgres
    [[ -z $TLS ]] || { tls_files postgres; postgres_tls >>"$at/server.conf"; }
    spawn postgres "$POSTGRES_BIN/postgres" -D "$SEEN/postgres/data"
}

# postgres_conf SERVER: for the primary and for its replica.
postgres_conf() {
    local at=$DATA/$1
    cat >"$at/server.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $(port_of "$1")
unix_socket_directories = ''
fsync = $PG_FSYNC
timezone = 'UTC'
log_timezone = 'UTC'
CONF
    own "$at/server.conf" "$1"
}

launch_redis() {
    redis_conf redis
    [[ -z $TLS ]] || { tls_files redis; redis_tls >>"$DATA/redis/redis.conf"; }
    spawn redis "$REDIS_KIND-server" "$SEEN/redis/redis.conf"
}

# redis_conf SERVER: for the first Redis and for its replicas.
redis_conf() {
    local at=$DATA/$1 aof=no
    [[ $REDIS_AOF != 1 ]] || aof=yes
    cat >"$at/redis.conf" <<CONF
bind 127.0.0.1
port $(port_of "$1")
dir $SEEN/$1
save ""
appendonly $aof
# Each command is in the file, if not on the disk, before its answer goes out: a kill loses nothing,
# a power cut may. With everysec, the default, an answer does not wait while an fsync is on its way.
appendfsync no
maxmemory-policy noeviction
CONF
    [[ $ADDED != *redis-* ]] || replication_conf >>"$at/redis.conf"
    own "$at/redis.conf" "$1"
}

# Whether the server does what it is for, not only accepts a connection.
answers() {
    case $1 in
        # RabbitMQ opens its port last; the first byte of Connection.Start is 1 (a method frame).
        rabbitmq) talk "$AMQP_PORT" 'AMQP\0\0\011\001' $'\001' ;;
        redis* | sentinel-*) talk "$(port_of "$1")" 'PING\r\n' + ;;
        postgres | replica)
            as "$1" "$POSTGRES_BIN/pg_isready" -q -h 127.0.0.1 -p "$(port_of "$1")" -t 2 ;;
    esac
}

talk() {
    local byte=
    {
        exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
        # shellcheck disable=SC2059
        printf "$2" >&3
        IFS= read -r -n 1 -t 2 byte <&3
        exec 3>&-
    } 2>/dev/null || return 1
    [[ $byte == "$3" ]]
}

port_taken() {
    ! perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(LocalAddr => "127.0.0.1",
        LocalPort => $ARGV[0], Listen => 1, ReuseAddr => 1)' "$1"
}

port_of() {
    case $1 in
        rabbitmq) echo "$AMQP_PORT" ;; postgres) echo "$POSTGRES_PORT" ;; redis) echo "$REDIS_PORT" ;;
        *) added_port "$1" ;;
    esac
}

launch() {
    case $1 in
        replica) launch_replica ;; redis-*) launch_redis_replica "$1" ;;
        sentinel-*) launch_sentinel "$1" ;; *) "launch_$1" ;;
    esac
}

start_server() {
    local server=$1 deadline=$((SECONDS + START_SECS)) again=$((SECONDS + 15)) from=0
    ! main_pid "$server" >/dev/null || return 0
    kill_server "$server"    # what a crash left: an epmd, backends whose postmaster is gone
    if [[ ! -d $DATA/$server ]]; then
        mkdir -m 0700 "$DATA/$server"
        ! is_root || chown "$(owner "$server")" "$DATA/$server"
    fi
    port_taken "$(port_of "$server")" && return "$COLLISION"
    [[ ! -f $DATA/$server/server.log ]] || from=$(wc -l <"$DATA/$server/server.log")
    launch "$server" || { show_log "$server"; return 1; }
    until answers "$server"; do
        if ! alive "$CHILD"; then
            if tail -n "+$((from + 1))" "$DATA/$server/server.log" |
                grep -qiE 'eaddrinuse|address already in use|could not bind'; then
                kill_server "$server"
                return "$COLLISION"
            fi
            # After a SIGKILL the lock file or shared memory of the old one may be seen for 1-2 s.
            if [[ $server == postgres || $server == replica ]] && ((SECONDS < again)); then
                sleep 0.3
                launch "$server"
                continue
            fi
            show_log "$server"
            kill_server "$server"
            return 1
        fi
        if ((SECONDS >= deadline)); then
            echo "servers: $server did not answer in $START_SECS s" >&2
            show_log "$server"
            kill_server "$server"
            return 1
        fi
        sleep 0.05
    done
    [[ $server != postgres ]] || make_database
}

make_database() {
    [[ ! -f $DATA/postgres/database ]] || return 0
    postgres_psql postgres -qXc 'CREATE DATABASE rollcall' && touch "$DATA/postgres/database"
}

show_log() {
    printf 'servers: %s did not start; the end of its log:\n' "$1" >&2
    tail -n 20 "$DATA/$1/server.log" >&2 || true
}

# psql_of [--at SERVER] ARGUMENT... and the same of redis-cli.
psql_of() {
    local at=postgres
    if [[ ${1:-} == --at ]]; then
        at=${2:-}
        need_server "$at"
        case $at in postgres | replica) ;; *) die "$at is no Postgres" ;; esac
        shift 2
    fi
    postgres_psql rollcall -p "$(port_of "$at")" "$@"
}

redis_cli_of() {
    local at=redis
    if [[ ${1:-} == --at ]]; then
        at=${2:-}
        need_server "$at"
        case $at in redis* | sentinel-*) ;; *) die "$at is no Redis" ;; esac
        shift 2
    fi
    redis_cli -p "$(port_of "$at")" "$@"
}

# The caller's own environment and user, as psql reads the terminal and the caller's files; of another
# system's psql that cannot be had, and it reads what it is given on standard input.
postgres_psql() {
    local database=$1; shift
    local psql=(psql -h 127.0.0.1 -p "$POSTGRES_PORT" -U rollcall -d "$database" "$@")
    if [[ -z $ROOT ]]; then
        PGPASSWORD=$POSTGRES_SECRET "${psql[@]}"
    else
        as postgres "PGPASSWORD=$POSTGRES_SECRET" "TERM=${TERM:-dumb}" "${psql[@]}"
    fi
}

redis_cli() {
    local cli=("$REDIS_KIND-cli" -h 127.0.0.1 -p "$REDIS_PORT" "$@")
    if [[ -z $ROOT ]]; then "${cli[@]}"; else as redis "TERM=${TERM:-dumb}" "${cli[@]}"; fi
}
