# shellcheck shell=bash
# Servers that a set gets on request: a streaming replica of its Postgres, replicas of its Redis, and
# Sentinels that watch it. Read by scripts/servers. It must never change a set that has none.
#
# What they know of each other they write down themselves (a Sentinel its view, a promoted Redis that
# it is one), so the configuration of an added Redis or Sentinel is ours only until its first start.

readonly FOLLOW_SECS=60    # until an added server has what there was, and knows the others
readonly MASTER_NAME=rollcall
# The Redis user that replicas come as. They are cut off, and lose nothing that they have, by
#   ACL SETUSER replicator off     and     CLIENT KILL TYPE replica     on the one they follow.
readonly REPLICATOR=replicator

# ADDED is "NAME=PORT NAME=PORT ...".
list_all() {
    local one
    ALL=("${SERVERS[@]}")
    for one in $ADDED; do ALL+=("${one%%=*}"); done
}

added_port() {
    local one
    for one in $ADDED; do [[ ${one%%=*} != "$1" ]] || { echo "${one#*=}"; return 0; }; done
    return 1
}

# How many servers there are whose names begin so.
count_added() {
    local one count=0
    for one in $ADDED; do [[ $one != "$1"* ]] || count=$((count + 1)); done
    echo "$count"
}

added_env() {
    local one name port nodes=()
    for one in $ADDED; do
        name=${one%%=*} port=${one#*=}
        case $name in
            replica) echo "DATABASE_REPLICA_URL=$(database_url "$port")" ;;
            redis-*) echo "REDIS_${name#redis-}_URL=redis://127.0.0.1:$port/0" ;;
            sentinel-*) nodes+=("127.0.0.1:$port") ;;
        esac
    done
    ((${#nodes[@]})) || return 0
    printf "REDIS_SENTINEL_URL='redis-sentinel://%s/0?sentinelServiceName=%s" \
        "${nodes[0]}" "$MASTER_NAME"
    ((${#nodes[@]} == 1)) || printf '&node=%s' "${nodes[@]:1}"
    printf "'\n"
}

# ---- adding ----------------------------------------------------------------------------------

add_servers() {
    local what=${1:-} count=${2:-1} first=1 server n
    [[ $count =~ ^[1-9]$ ]] || die "a number from 1 to 9, not $count"
    lock_set
    # Another one may have added some since this one read the state.
    open_set "$DIR"
    case $what in
        replica)
            [[ -z ${2:-} ]] || die "a set has one replica"
            [[ $ADDED != *replica=* ]] || die "the set has a replica"
            need_running postgres
            add_server replica ;;
        redis-replicas)
            need_running redis
            first=$(($(count_added redis-) + 2))
            for ((n = first; n < first + count; n++)); do add_server "redis-$n"; done ;;
        sentinels)
            [[ $ADDED != *sentinel-* ]] || die "the set has sentinels"
            need_running redis
            QUORUM=$((count / 2 + 1))
            for ((n = 1; n <= count; n++)); do add_server "sentinel-$n"; done
            until_follows sentinels_agree "$count" ;;
        *) die "what is added is replica, redis-replicas N or sentinels N" ;;
    esac
    write_env
    exec 9>&-
    cat "$DIR/env"
}

need_running() { main_pid "$1" >/dev/null || die "$1 does not run: start it first"; }

# In the state before it is there, so that `remove` knows of whatever is left by an interrupt.
add_server() {
    local server=$1 before=$ADDED status attempt port
    for attempt in 1 2 3 4 5; do
        port=$(free_ports 1)
        ADDED="${before:+$before }$server=$port"
        list_all
        save_state
        [[ $server != redis-* ]] || allow_replicas
        status=0
        start_server "$server" || status=$?
        ((status == 0)) || { kill_server "$server"; rm -rf "${DATA:?}/$server"; }
        ((status == COLLISION && attempt < 5)) || break
    done
    if ((status == 0)); then
        [[ $server != redis-* ]] || until_follows redis_follows "$server"
        return 0
    fi
    ADDED=$before
    list_all
    save_state
    die "$server could not be added"
}

# until_follows COMMAND...: as long as it may take.
until_follows() {
    local deadline=$((SECONDS + FOLLOW_SECS))
    until "$@"; do
        ((SECONDS < deadline)) || die "not within $FOLLOW_SECS s: $*"
        sleep 0.1
    done
}

# ---- Postgres --------------------------------------------------------------------------------

# The slot keeps what a replica that is stopped has yet to read.
launch_replica() {
    local at=$DATA/replica
    if [[ ! -f $at/initialised ]]; then
        rm -rf "$at/data"
        postgres_psql postgres -qXtc "SELECT pg_drop_replication_slot(slot_name)
            FROM pg_replication_slots WHERE slot_name = 'replica'" >/dev/null
        (cd "$at" && as replica "PGPASSWORD=$POSTGRES_SECRET" "$POSTGRES_BIN/pg_basebackup" \
            --host=127.0.0.1 --port="$POSTGRES_PORT" --username=rollcall --pgdata=data \
            --write-recovery-conf --create-slot --slot=replica --checkpoint=fast --no-sync \
            </dev/null >>"$at/server.log" 2>&1 9>&-) || return 1
        touch "$at/initialised"
    fi
    postgres_conf replica
    spawn replica "$POSTGRES_BIN/postgres" -D "$SEEN/replica/data"
}

# ---- Redis -----------------------------------------------------------------------------------

# For whoever serves replicas, or may be made one by a Sentinel.
replication_conf() {
    cat <<CONF
user $REPLICATOR on >$POSTGRES_SECRET +psync +replconf +ping
masteruser $REPLICATOR
masterauth $POSTGRES_SECRET
# Five seconds unless set: it waits for other replicas to share one copy.
repl-diskless-sync-delay 0
CONF
}

# The same for the first Redis, which runs.
allow_replicas() {
    local line
    while read -r -a line; do
        case ${line[0]} in
            '#') ;;
            user) redis_cli ACL SETUSER "${line[@]:1}" ;;
            *) redis_cli CONFIG SET "${line[@]}" ;;
        esac >/dev/null
    done < <(replication_conf)
}

launch_redis_replica() {
    local server=$1 conf=$DATA/$1/redis.conf
    if [[ ! -f $conf ]]; then
        redis_conf "$server"
        echo "replicaof 127.0.0.1 $REDIS_PORT" >>"$conf"
    fi
    spawn "$server" "$REDIS_KIND-server" "$SEEN/$server/redis.conf"
}

redis_follows() {
    local info
    info=$(redis_cli_of --at "$1" INFO replication) && [[ $info == *master_link_status:up* ]]
}

launch_sentinel() {
    local server=$1 conf=$DATA/$1/sentinel.conf
    if [[ ! -f $conf ]]; then
        cat >"$conf" <<CONF
bind 127.0.0.1
port $(port_of "$server")
dir $SEEN/$server
sentinel monitor $MASTER_NAME 127.0.0.1 $REDIS_PORT $QUORUM
sentinel down-after-milliseconds $MASTER_NAME 5000
sentinel failover-timeout $MASTER_NAME 10000
CONF
        own "$conf" "$server"
    fi
    spawn "$server" "$REDIS_KIND-server" "$SEEN/$server/sentinel.conf" --sentinel
}

# Whether each of them knows all the others and every replica.
sentinels_agree() {
    local n view
    for ((n = 1; n <= $1; n++)); do
        view=$(redis_cli_of --at "sentinel-$n" SENTINEL MASTER "$MASTER_NAME" | paste -sd' ')
        [[ $view == *" num-slaves $(count_added redis-) "* &&
            $view == *" num-other-sentinels $(($1 - 1)) "* ]] || return 1
    done
}
