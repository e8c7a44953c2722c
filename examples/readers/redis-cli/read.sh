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

# The control bytes, but for 00, which no argument can hold.
readonly CONTROL=(0{{1..9},{A..F}} 1{{0..9},{A..F}} 7F)

# escaped TEXT MARK CODE…: each byte of these codes as the mark and the code.
escaped() {
    local text=$1 mark=$2 code char
    for code in "${@:3}"; do
        printf -v char "\\x$code"
        text=${text//"$char"/"$mark$code"}
    done
    printf '%s' "$text"
}

# As redis-cli reads it: in quotes, so that nothing in it can end the line and begin another command.
quoted() {
    local text=${1//\\/\\\\}
    printf '"%s"' "$(escaped "${text//\"/\\\"}" '\x' "${CONTROL[@]}")"
}

# A value of each field of the set, as it is written in Redis.
member() {
    local IFS=: text texts=()
    for text in "$@"; do texts+=("$(escaped "$text" % 25 3A 7B 7D "${CONTROL[@]}")"); done
    printf '%s' "${texts[*]}"
}

case $1 in
    count) answer=$(ask SCARD "$(quoted "$prefix:$2")") ;;
    contains)
        answer=$(ask SISMEMBER "$(quoted "$prefix:$2")" "$(quoted "$(member "${@:3}")")")
        case $answer in 0) answer=no ;; 1) answer=yes ;; esac
        ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
echo "${answer:-unknown}"
[[ -n $answer ]] || exit 75
