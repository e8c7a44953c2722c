//! The users of Redis 7 and 8 and Valkey. Commands one by one where something is written, so that
//! nothing comes along; none that only some of the versions know, as one unknown name refuses the
//! whole line. What a script does is checked as if its user had done it.

use super::{quoted, variable};

/// What a client sends when it connects, through Sentinel and to a cluster that moves slots as well,
/// and what tells that a server is another, or may evict.
const ANY: &str = "+ping +select +info +role +asking +client|id +client|setname +client|getname \
                   +cluster|slots +cluster|info";

/// Additions, marks and the watermark; and a repair, as a worker mends what it finds missing.
const WORKER: &str = "+sadd +pfadd +expireat +expire +hset +hsetnx +hget +hmget +hgetall +hdel \
                      +eval +scan +exists +persist +unlink +rename";

/// The counter beside new sets. Apart, as SET would overwrite a live one.
const COUNTER: &str = "+set +get +incr";

/// `verify`, `prune`, `forget` and `status` beside that.
const MANAGER: &str = "+srem +scard +smismember +sscan +srandmember +pfcount +type +pttl \
                       +getrange +copy +dbsize";

/// MULTI for the generation in the same round trip.
const READER: &str = "+@read -@dangerous +multi +exec +discard";

pub fn script(prefix: &str, users: &str) -> String {
    // The prefix holds letters, digits, `_`, `.` and `-` alone: a pattern takes none of them for
    // its own.
    let (live, new) = (format!("~{prefix}:*"), format!("~rebuild:*:{{{prefix}:*"));
    let counter = format!("({new} {COUNTER})");
    let read = format!("%R~{prefix}:*");
    let mut script = String::from(HEAD);
    for (role, what, patterns, commands) in [
        (
            "worker",
            "adds members, and mends what it finds missing",
            vec![&live, &new],
            vec![WORKER],
        ),
        ("manager", "rollcall manage", vec![&live, &new], vec![WORKER, MANAGER]),
        ("reader", "reads, whoever asks; rollcall read and serve", vec![&read], vec![READER]),
    ] {
        let (name, password) = (quoted(&format!("{users}_{role}")), variable(role));
        script.push_str(&format!("\n# {what}\nuser {name} \"${{{password}:?}}\" resetchannels"));
        let commands = commands.into_iter().chain([ANY]).flat_map(|some| some.split(' '));
        let words = patterns.into_iter().map(String::as_str).chain(commands);
        // The counter's own rule, for those who may write.
        let words = words.chain((role != "reader").then_some(counter.as_str()));
        words.enumerate().for_each(|(at, word)| {
            let gap = if at % 6 == 0 { " \\\n    " } else { " " };
            script.push_str(gap);
            script.push_str(&quoted(word));
        });
        script.push('\n');
    }
    script.push_str(FOOT);
    script
}

const HEAD: &str = "\
# For sh, as often as you like, where redis-cli reaches the server: REDIS_ADMIN_URL says where, unless
# it is here; its password goes better into REDISCLI_AUTH, which ps does not show. Those of the users
# come from the environment: WORKER_PASSWORD, MANAGER_PASSWORD, READER_PASSWORD. Producers need none.
set -eu

user() {  # NAME PASSWORD RULE...; the password goes by standard input, as its last rule
    name=$1 password=$2
    shift 2
    printf '>%s' \"$password\" |
        redis-cli -e -x --no-auth-warning ${REDIS_ADMIN_URL:+-u \"$REDIS_ADMIN_URL\"} \\
            ACL SETUSER \"$name\" reset on \"$@\"
}
";

const FOOT: &str = "
# To keep them over a restart:  redis-cli CONFIG REWRITE     (or ACL SAVE, with an aclfile)
# Behind Sentinel, run it on each server, and tell each Sentinel of the same names and passwords:
#   redis-cli -p 26379 ACL SETUSER NAME on '>PASSWORD' +ping +info '+client|setname' '+client|id' +sentinel
# Once everybody has a user of their own, so that no wrong password falls through to it:
#   redis-cli ACL SETUSER default off
";
