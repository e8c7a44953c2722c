//! The options of `rollcall top`.

use clap::Args;

use super::Output;

#[derive(Args, Clone, Copy, Debug)]
pub struct Top {
    /// Look once, and end
    #[arg(long)]
    pub once: bool,
    /// Between two looks, from 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    #[command(flatten)]
    pub output: Output,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0.1 to 3600".to_owned()),
    }
}
