#!/usr/bin/env bash
# A reader with nothing but redis-cli: asks Redis, and never takes an emptied Redis for an answer.
#
#     REDIS_URL=redis://localhost ./read.sh count cities
#     REDIS_URL=redis://localhost ./read.sh contains users ann
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

# As redis-cli reads it: in quotes, on one line, so that no text can be another command.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\r'/\\r}
    printf '"%s"' "$text"
}

case $1 in
    count) answer=$(ask SCARD "$(quoted "$prefix:$2")") ;;
    contains)
        answer=$(ask SISMEMBER "$(quoted "$prefix:$2")" "$(quoted "$3")")
        case $answer in 0) answer=no ;; 1) answer=yes ;; esac
        ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
echo "${answer:-unknown}"
[[ -n $answer ]] || exit 75
