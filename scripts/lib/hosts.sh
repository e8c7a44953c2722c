# shellcheck shell=bash
# Who runs the servers and from where: their users, and the folder of another system (SERVERS_ROOT).
# Read by scripts/servers.

# UID:GID that a server runs as: Postgres refuses root, and RabbitMQ has no business being it. Users
# of another system have other numbers there, and may have none here.
owner() {
    local name=$1
    case $1 in redis* | sentinel-*) name=$REDIS_KIND ;; replica) name=postgres ;; esac
    if [[ -n $ROOT ]]; then
        awk -F: -v name="$name" '$1 == name { print $3 ":" $4 }' "$ROOT/etc/passwd"
    elif ! is_root; then
        echo "$(id -u):$(id -g)"
    elif id "$name" >/dev/null 2>&1; then
        echo "$(id -u "$name"):$(id -g "$name")"
    fi
}

# Fills DROP with what makes a command the server's user, here on this system.
drop() {
    local ids
    DROP=()
    is_root || return 0
    ids=$(owner "$1")
    DROP=(setpriv "--reuid=${ids%:*}" "--regid=${ids#*:}")
    if [[ -n $ROOT ]]; then DROP+=(--clear-groups --); else DROP+=(--init-groups --); fi
}

# Fills PLACE with what puts a command in the server's place: its user, its system, its folder, and
# an environment that holds nothing of ours, as RABBITMQ_*, PG* and ERL_* variables would steer the
# servers and their tools. What another system needs of this one is mounted in a namespace of the
# process itself: no mount is ever seen outside, and none is left.
place() {
    local server=$1 ids
    drop "$server"
    if [[ -z $ROOT ]]; then
        PLACE=("${DROP[@]}" env -i "PATH=$PATH")
    else
        # shellcheck disable=SC2016
        local mounts=(sh -euc '
            mount --rbind /dev "$1/dev"
            mount --rbind /proc "$1/proc"
            mount -t tmpfs -o mode=0755 rollcall "$1/run"
            mkdir -p "$1$3"
            mount --rbind "$2" "$1$3"
            shift 3
            exec "$@"' sh "$ROOT" "$DATA" "$SEEN")
        local enter=("--root=$ROOT" "--wd=$SEEN/$server" --)
        if is_root; then
            PLACE=(unshare --mount -- "${mounts[@]}" unshare "${enter[@]}" "${DROP[@]}")
        else
            # We ourselves, called root for the mounts, and then by the server's number.
            ids=$(owner "$server")
            PLACE=(unshare --user --map-root-user --mount -- "${mounts[@]}"
                unshare --user "--map-user=${ids%:*}" "--map-group=${ids#*:}" "${enter[@]}")
        fi
        PLACE+=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    fi
    PLACE+=(LANG=C.UTF-8 "HOME=$SEEN/$server")
}

# as SERVER COMMAND...: run it in the server's place.
as() {
    local PLACE DROP server=$1; shift
    place "$server"
    "${PLACE[@]}" "$@"
}

# Whether PROGRAM is there, by its path or in PATH, in the system that the set runs from.
has() {
    if [[ -z $ROOT ]]; then
        command -v "$1" >/dev/null
    elif [[ $1 == /* ]]; then
        [[ -x $ROOT$1 ]]
    else
        [[ -x $ROOT/usr/bin/$1 ]]
    fi
}

find_programs() {
    local missing=() server hint="run scripts/install"
    case $REDIS_KIND in redis | valkey) ;; *) die "SERVERS_REDIS is redis or valkey" ;; esac
    if [[ -n $ROOT ]]; then
        [[ -d $ROOT/usr ]] || die "there is no system in $ROOT (run scripts/next-servers $ROOT)"
        hint="run scripts/next-servers $ROOT"
    fi
    RABBITMQ_BIN=/usr/lib/rabbitmq/bin
    has "$RABBITMQ_BIN/rabbitmq-server" || missing+=(rabbitmq-server)
    # /usr/lib/postgresql/15/bin: the newest of those installed, else what PATH has.
    POSTGRES_BIN=$(find "$ROOT/usr/lib/postgresql" -mindepth 2 -maxdepth 2 -name bin 2>/dev/null |
        sort -V | tail -n 1)
    POSTGRES_BIN=${POSTGRES_BIN#"$ROOT"}
    [[ -n $POSTGRES_BIN ]] || POSTGRES_BIN=$(dirname "$(command -v initdb || echo /nonexistent/x)")
    has "$POSTGRES_BIN/postgres" || missing+=(postgresql)
    has "$REDIS_KIND-server" || missing+=("$REDIS_KIND-server")
    ((${#missing[@]} == 0)) || die "not installed: ${missing[*]} ($hint)"
    for server in "${SERVERS[@]}"; do
        [[ -n $(owner "$server") ]] || die "there is no user $server to run it as"
    done
}
