# shellcheck shell=bash
# TLS for the servers of a set, from certificates that the caller makes. Read by scripts/servers.
# Beside the plain ports RabbitMQ and Redis get one each with TLS; Postgres speaks both on its one,
# and takes the user tls_only with TLS alone.

readonly TLS_FILES=(ca.pem server.pem server.key)

# tls_files SERVER: copies what lies in the folder now; a server may read only what is its own.
tls_files() {
    local file
    for file in "${TLS_FILES[@]}"; do
        cp "$TLS/$file" "$DATA/$1/$file.new"
        own "$DATA/$1/$file.new" "$1"
        mv "$DATA/$1/$file.new" "$DATA/$1/$file"
    done
}

# Whether a client must show a certificate: the folder has a file of that name.
demands() { [[ -e $TLS/client-certificates-demanded ]]; }

rabbitmq_tls() {
    local verify=verify_none demand=false
    ! demands || { verify=verify_peer demand=true; }
    cat <<CONF
listeners.ssl.local = 127.0.0.1:$AMQPS_PORT
ssl_options.cacertfile = $SEEN/rabbitmq/ca.pem
ssl_options.certfile = $SEEN/rabbitmq/server.pem
ssl_options.keyfile = $SEEN/rabbitmq/server.key
ssl_options.verify = $verify
ssl_options.fail_if_no_peer_cert = $demand
CONF
}

redis_tls() {
    local demand=no
    ! demands || demand=yes
    cat <<CONF
tls-port $REDISS_PORT
tls-ca-cert-file $SEEN/redis/ca.pem
tls-cert-file $SEEN/redis/server.pem
tls-key-file $SEEN/redis/server.key
tls-auth-clients $demand
CONF
}

postgres_tls() {
    local at=$DATA/postgres clientcert=''
    ! demands || clientcert='clientcert=verify-ca'
    cat >"$at/hba.conf" <<CONF
hostssl all tls_only 127.0.0.1/32 scram-sha-256 $clientcert
host    all tls_only 127.0.0.1/32 reject
host    all all      127.0.0.1/32 scram-sha-256
CONF
    own "$at/hba.conf" postgres
    cat <<CONF
hba_file = '$SEEN/postgres/hba.conf'
ssl = on
ssl_ca_file = '$SEEN/postgres/ca.pem'
ssl_cert_file = '$SEEN/postgres/server.pem'
ssl_key_file = '$SEEN/postgres/server.key'
CONF
}

# What lies in the folder now counts from the next connection on, without a restart.
renew_tls() {
    local server at=$SEEN/redis
    [[ -n $TLS ]] || die "this set has no TLS: SERVERS_TLS was not set when it was made"
    for server in "${SERVERS[@]}"; do tls_files "$server"; done
    kill -HUP "$(main_pid postgres)"
    redis_cli config set tls-ca-cert-file "$at/ca.pem" tls-cert-file "$at/server.pem" \
        tls-key-file "$at/server.key" >/dev/null
    rabbitmq_env
    (cd "$DATA/rabbitmq" && as rabbitmq "${RABBITMQ_ENV[@]}" "$RABBITMQ_BIN/rabbitmqctl" -q eval \
        'ssl:clear_pem_cache().' >/dev/null)
}
