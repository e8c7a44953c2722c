//! A terminal of the test's own: a pseudo-terminal with the binary in it, and a screen that is what
//! a person would see. The kernel tells the program of each change of its size, as it would there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};

use super::process::Env;
use super::wait::{LONG, SHORT, eventually};

const ROWS: u16 = 40;
const COLUMNS: u16 = 100;

pub struct Terminal {
    child: Child,
    /// The end that a person sits at.
    ours: File,
    /// The program's end. Held, as the kernel makes its modes anew when nobody has it.
    theirs: OwnedFd,
    seen: Arc<Mutex<Seen>>,
    modes: (LocalModes, OutputModes),
}

struct Seen {
    parser: vt100::Parser,
    /// All that was written, as it came.
    bytes: Vec<u8>,
}

impl Terminal {
    pub fn start(args: &[&str], env: &Env) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it can be used");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its end");
        set_size(&ours, ROWS, COLUMNS);
        let modes = modes_of(&theirs);
        let end = || theirs.try_clone().expect("an end can be shared");
        // In a session of its own, so that this is its terminal: whose keys it hears of, and size.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_rollcall")])
            .args(args)
            .env_clear()
            .envs(env)
            .env("TERM", "xterm-256color")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid runs");
        let parser = vt100::Parser::new(cells(ROWS), cells(COLUMNS), 0);
        let seen = Arc::new(Mutex::new(Seen { parser, bytes: Vec::new() }));
        let ours = File::from(ours);
        let (from, to) = (ours.try_clone().expect("it can be shared"), seen.clone());
        // Ends when nobody has the program's end any more.
        thread::spawn(move || read(from, &to));
        Terminal { child, ours, theirs, seen, modes }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the screen, a line each row.
    pub fn rows(&self) -> Vec<String> {
        let seen = self.seen();
        let screen = seen.parser.screen();
        let (_, columns) = screen.size();
        screen.rows(0, columns.get()).map(|row| row.trim_end().to_owned()).collect()
    }

    /// All that was written so far, control sequences included.
    pub fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.seen().bytes).into_owned()
    }

    /// Whether it is the screen that programs draw on, with what was there before kept aside.
    pub fn is_taken(&self) -> bool {
        self.seen().parser.screen().alternate_screen()
    }

    /// Waits for a screen on which this holds.
    pub async fn wait(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        eventually(SHORT, &format!("the terminal to show {what}"), async || {
            let rows = self.rows();
            match holds(&rows) {
                true => Ok(rows),
                false => Err(format!("it shows\n{}", rows.join("\n"))),
            }
        })
        .await
    }

    pub async fn wait_text(&self, text: &str) -> Vec<String> {
        self.wait(text, |rows| rows.iter().any(|row| row.contains(text))).await
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        self.seen().parser.screen_mut().set_size(cells(rows), cells(columns));
        set_size(&self.ours, rows, columns);
    }

    pub fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// How it ended. The terminal must be as it was before it began.
    pub async fn end(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = eventually(LONG, "the program to end", async || {
            child.try_wait().expect("a child can be asked").ok_or("it runs".to_owned())
        })
        .await;
        assert_eq!(modes_of(&self.theirs), self.modes, "the modes of the terminal");
        eventually(SHORT, "the screen to be given back", async || {
            let seen = self.seen();
            let screen = seen.parser.screen();
            match !screen.alternate_screen() && !screen.hide_cursor() {
                true => Ok(()),
                false => Err(format!("it shows\n{}", screen.contents())),
            }
        })
        .await;
        status.code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut from: File, to: &Mutex<Seen>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
        seen.parser.process(&buffer[..count]);
        seen.bytes.extend_from_slice(&buffer[..count]);
    }
}

fn cells(many: u16) -> NonZeroU16 {
    NonZeroU16::new(many).expect("a screen has some")
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

/// What raw mode changes.
fn modes_of(terminal: impl AsFd) -> (LocalModes, OutputModes) {
    let modes = tcgetattr(terminal).expect("a terminal has modes");
    (modes.local_modes, modes.output_modes)
}
