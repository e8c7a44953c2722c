#!/usr/bin/env bash
# A reader with nothing but redis-cli: asks Redis, and never takes an emptied Redis for an answer.
#
#     REDIS_URL=redis://localhost ./read.sh count cities
#     REDIS_URL=redis://localhost ./read.sh contains users ann
#     REDIS_URL=redis://localhost ./read.sh contains cities CA Fresno
#
# Prints a number, yes or no; or "unknown", with exit code 75, where Redis cannot tell.
set -euo pipefail

prefix=${ROLLCALL_KEY_PREFIX:-rollcall}

# The answer, or nothing for unknown. One transaction: the question, then the generation.
ask() {
    local said
    said=$(redis-cli -u "$REDIS_URL" --no-auth-warning -e <<ASK
MULTI
$*
HGET "$prefix:meta" generation
EXEC
ASK
)
    # OK, QUEUED, QUEUED, the answer, the generation (nothing where there is none).
    mapfile -t said <<<"$said"
    [[ ${said[3]:-} =~ ^[0-9]+$ ]] || { printf 'redis: %s\n' "${said[*]}" >&2; exit 1; }
    [[ -z ${said[4]:-} ]] || echo "${said[3]}"
}

# As redis-cli reads it: in quotes, with \ and " escaped.
quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }

# A value of each field of the set, as it is written in Redis: control bytes too are then text, so that
# none can end the line and begin another command.
member() {
    local char code joined='' text
    for text in "$@"; do
        text=${text//%/%25}
        for code in 3A 7B 7D 7F {0,1}{{0..9},{A..F}}; do
            [[ $code != 00 ]] || continue    # no argument can hold it
            printf -v char "\\x$code"
            text=${text//"$char"/%$code}
        done
        joined+=${joined:+:}$text
    done
    echo "$joined"
}

case $1 in
    count) answer=$(ask SCARD "$(quoted "$prefix:$(member "$2")")") ;;
    contains)
        answer=$(ask SISMEMBER "$(quoted "$prefix:$(member "$2")")" "$(quoted "$(member "${@:3}")")")
        case $answer in 0) answer=no ;; 1) answer=yes ;; esac
        ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
echo "${answer:-unknown}"
[[ -n $answer ]] || exit 75
