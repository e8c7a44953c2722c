//! The users of RabbitMQ. A right is a regular expression over names, for each of configure
//! (declare, delete), write (publish; bind, as the target) and read (consume, purge; bind, as the
//! source). Passive declares and acks need none.

use super::{quoted, variable};
use crate::config;

struct Rights {
    role: &'static str,
    what: &'static str,
    configure: String,
    write: String,
    read: String,
}

pub fn script(broker: &config::Broker, users: &str) -> String {
    let vhost = quoted(&vhost(broker.url.at_start()));
    let mut script = String::from(
        "# For sh, where rabbitmqctl reaches the node; as often as you like. Passwords come from the\n\
         # environment: PRODUCER_PASSWORD, WORKER_PASSWORD, MANAGER_PASSWORD, TOPOLOGY_PASSWORD.\n\
         # Readers need no user here: they ask Redis alone.\n\
         set -eu\n\
         \n\
         user() {  # NAME PASSWORD CONFIGURE WRITE READ\n    \
             # The name and nothing else: with a third argument newer versions do not read the pipe.\n    \
             printf '%s\\n' \"$2\" | timeout 60 rabbitmqctl add_user \"$1\" >/dev/null 2>&1 ||\n        \
                 printf '%s\\n' \"$2\" | timeout 60 rabbitmqctl change_password \"$1\" >/dev/null || {\n        \
                 echo \"$1: rabbitmqctl set no password\" >&2\n        \
                 exit 1\n    \
             }\n",
    );
    script.push_str(&format!(
        "    rabbitmqctl -q set_permissions -p {vhost} \"$1\" \"$3\" \"$4\" \"$5\"\n}}\n"
    ));
    for Rights { role, what, configure, write, read } in rights(broker) {
        let (name, password) = (quoted(&format!("{users}_{role}")), variable(role));
        let (configure, write, read) = (quoted(&configure), quoted(&write), quoted(&read));
        script.push_str(&format!(
            "\n# {what}\nuser {name} \"${{{password}:?}}\" \\\n    {configure} \\\n    {write} \\\n    \
             {read}\n"
        ));
    }
    script.push_str("\n# Once everybody has a user of their own:  rabbitmqctl delete_user guest\n");
    script
}

fn rights(broker: &config::Broker) -> [Rights; 4] {
    let (exchange, queue) = (broker.exchange.as_str(), broker.queue.as_str());
    let dead = broker.dead_letters.as_str();
    let only = |names: &[&str]| match names {
        [] => "^$".to_owned(),
        [name] => format!("^{}$", literal(name)),
        names => {
            let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
            format!("^({})$", names.join("|"))
        }
    };
    let rights = |role, what, configure: &[&str], write: &[&str], read: &[&str]| Rights {
        role,
        what,
        configure: only(configure),
        write: only(write),
        read: only(read),
    };
    [
        rights("producer", "publishes events, and nothing else", &[], &[exchange], &[]),
        rights("worker", "consumes events, publishes dead letters", &[], &[dead], &[queue]),
        rights("manager", "reads, replays and purges dead letters", &[], &[exchange], &[dead]),
        // A queue's dead-letter exchange takes write on the exchange and read on the queue.
        rights(
            "topology",
            "declares the exchanges and queues: rollcall manage topology",
            &[exchange, queue, dead],
            &[queue, dead],
            &[exchange, queue, dead],
        ),
    ]
}

/// A regular expression for just this text.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for character in text.chars() {
        if !character.is_ascii_alphanumeric() && !"-_".contains(character) {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal
}

/// The path of the URL, decoded; RabbitMQ's own default where it names none.
fn vhost(url: &str) -> String {
    let url = url::Url::parse(url).ok();
    let path = url.as_ref().map_or("", |url| url.path().trim_start_matches('/'));
    // A form's decoding takes `+` for a space, which a path does not.
    let form = format!("v={}", path.replace('+', "%2B").replace('&', "%26"));
    let decoded = url::form_urlencoded::parse(form.as_bytes()).next();
    decoded.map(|(_, vhost)| vhost.into_owned()).filter(|v| !v.is_empty()).unwrap_or("/".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtual_host_is_that_of_the_url() {
        for (url, expected) in [
            ("amqp://h", "/"),
            ("amqp://h/", "/"),
            ("amqp://h/%2f", "/"),
            ("amqp://u:p@h:1/shop?heartbeat=5", "shop"),
            ("amqp://h/a%2Fb+c%26d", "a/b+c&d"),
        ] {
            assert_eq!(vhost(url), expected, "{url}");
        }
    }

    #[test]
    fn a_name_matches_only_itself() {
        assert_eq!(literal("rollcall.dead-letters_1"), r"rollcall\.dead-letters_1");
        assert_eq!(literal("a(b)|c$"), r"a\(b\)\|c\$");
    }
}
