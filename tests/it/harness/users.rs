//! The users that `rollcall manage access` prints, made on the servers as an administrator would.
//! They are the whole server's, so each test's begin with its own prefix.

use std::io::Write;
use std::process::{Command, Stdio};

use super::rig::Rig;

impl Rig {
    /// Prints the users of a server, and runs what was printed. A role's password is its name.
    pub async fn make_users(&self, server: &str) {
        let args = ["manage", "access", "--print", server, "--users", self.prefix()];
        let script = self.cli(&args).await.expect(0).stdout;
        tokio::task::block_in_place(|| self.run_script(server, &script));
    }

    fn run_script(&self, server: &str, script: &str) {
        let mut command = match server {
            "postgres" => {
                let mut psql = Command::new("psql");
                psql.args(["-qX", self.admin_url.as_str()]);
                psql
            }
            _ => Command::new("sh"),
        };
        let tools = self.servers().tools(&self.dir);
        let path = std::env::var("PATH").expect("tests have a PATH");
        command.env("PATH", format!("{}:{path}", tools.display()));
        command.env("REDIS_ADMIN_URL", &self.env["REDIS_URL"]);
        for role in ["producer", "worker", "manager", "reader", "topology"] {
            command.env(format!("{}_PASSWORD", role.to_uppercase()), role);
        }
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(script.as_bytes()).expect("the script is read");
        drop(stdin);
        let ran = child.wait_with_output().expect("a child can be waited for");
        let (out, err) =
            (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "the script for {server}: {out}{err}\n{script}");
    }

    /// The URL of this variable for one of those users.
    pub fn url_of(&self, variable: &str, role: &str) -> String {
        let (scheme, rest) = self.env[variable].split_once("://").expect("a url");
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        format!("{scheme}://{}:{role}@{place}", self.role(role))
    }
}
