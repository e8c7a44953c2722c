//! The picture: rates, processor time, latency and readers, one panel each.

use crate::book::{Book, Spread};
use crate::cpu::SERVERS;
use crate::drain::{DEFAULT, HUNDRED, TEN};
use crate::goals::PEERS;
use crate::plan::{ADD, CEILINGS, DRAINED, FLAT, HIGHEST, LATENCY, RATE, STEADY, WORKER};
use crate::readers;
use crate::report::rate;
use crate::shared::drawing::{Decades, Drawing, FAINT, INK, decade};
use crate::shared::words::grouped;

const WIDTH: f64 = 860.0;
/// The plot's sides: names stand to its left, values to its right.
const LEFT: f64 = 290.0;
const RIGHT: f64 = 760.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
/// Above a panel's first row: its title, and what its colours mean.
const HEAD: f64 = 62.0;
const FOOT: f64 = 34.0;

const GREY: &str = "#8c959f";
const BLUE: &str = "#0969da";
const GREEN: &str = "#1a7f37";
const AMBER: &str = "#bf8700";
const RED: &str = "#cf222e";
const VIOLET: &str = "#8250df";

pub fn svg(book: &Book) -> String {
    let panels = [rates(book), processors(book), latency(book), readers(book)];
    let panels: Vec<Panel> = panels.into_iter().filter(|panel| !panel.rows.is_empty()).collect();
    let height: f64 = panels.iter().map(|panel| panel.height()).sum();
    let mut svg = Drawing::new(WIDTH, height + 10.0, "What one run of make bench measured");
    let mut top = 0.0;
    for panel in &panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    svg.end()
}

struct Panel {
    title: &'static str,
    /// What the colours mean.
    legend: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
    scale: Scale,
}

struct Row {
    name: String,
    /// Value and colour, from the left on: pieces of one bar, or dots of their own.
    marks: Vec<(f64, &'static str)>,
    spread: Option<Spread>,
    /// To the right of it.
    told: String,
}

#[derive(PartialEq)]
enum Scale {
    /// From nought, in bars.
    Even,
    /// Powers of ten of seconds, in dots.
    Decades,
}

/// Of the servers, by their names in the book, and of the worker.
fn colours() -> [(&'static str, &'static str); 4] {
    [(WORKER, BLUE), (SERVERS[0], AMBER), (SERVERS[1], VIOLET), (SERVERS[2], RED)]
}

fn rates(book: &Book) -> Panel {
    let mut rows = Vec::new();
    let parts = [(CEILINGS, GREY), (DRAINED, BLUE), (STEADY, GREEN), (PEERS, AMBER)];
    for (part, colour) in parts {
        // SADD alone is ten times all others, and megabytes are no events.
        let shown = |row: &&str| *row != ADD && *row != FLAT && !row.contains("900 KiB");
        for row in book.rows(part).filter(shown) {
            let Some(spread) = book.get(part, row, RATE) else { continue };
            let name = if row == HIGHEST { "highest steady rate" } else { row };
            rows.push(Row {
                name: name.to_owned(),
                marks: vec![(spread.median, colour)],
                spread: Some(spread),
                told: rate(spread.median),
            });
        }
    }
    let mut legend =
        vec![("servers alone", GREY), ("Rollcall, drained", BLUE), ("publisher beside it", GREEN)];
    if book.rows(PEERS).next().is_some() {
        legend.push(("others", AMBER));
    }
    Panel { title: "Events a second: median, least and most", legend, rows, scale: Scale::Even }
}

fn processors(book: &Book) -> Panel {
    let row = |name: &&'static str| {
        let marks: Option<Vec<_>> = colours()
            .into_iter()
            .map(|(what, colour)| Some((book.median(DRAINED, name, what)?, colour)))
            .collect();
        let marks = marks?;
        let all: f64 = marks.iter().map(|(micros, _)| micros).sum();
        Some(Row { name: (*name).to_owned(), marks, spread: None, told: format!("{all:.1} µs") })
    };
    let legend = vec![("worker", BLUE), ("RabbitMQ", AMBER), ("Postgres", VIOLET), ("Redis", RED)];
    let rows = [DEFAULT.name, TEN, HUNDRED].iter().filter_map(row).collect();
    Panel { title: "Processor time an event", legend, rows, scale: Scale::Even }
}

fn latency(book: &Book) -> Panel {
    let whats = [("p50", GREEN), ("p99", AMBER), ("p99.9", RED)];
    dots("From due to be published until counted", book, LATENCY, &whats, |row| {
        row.parse().map_or(row.to_owned(), |at| format!("{} events/s", grouped(at)))
    })
}

fn readers(book: &Book) -> Panel {
    let whats = [("redis", RED), ("postgres, indexed", VIOLET), ("postgres", GREY)];
    dots("A reader's question at 1 M rows", book, readers::PART, &whats, |row| {
        row.split(" (").next().unwrap_or(row).to_owned()
    })
}

fn dots(
    title: &'static str,
    book: &Book,
    part: &'static str,
    whats: &[(&'static str, &'static str)],
    name: fn(&str) -> String,
) -> Panel {
    let row = |row: &str| {
        let mark = |(what, colour): &(&'static str, &'static str)| {
            Some((book.median(part, row, what)?, *colour))
        };
        let marks: Vec<_> = whats.iter().filter_map(mark).collect();
        Row { name: name(row), marks, spread: None, told: String::new() }
    };
    let rows = book.rows(part).map(row).collect();
    Panel { title, legend: whats.to_vec(), rows, scale: Scale::Decades }
}

impl Panel {
    fn height(&self) -> f64 {
        HEAD + ROW * self.rows.len() as f64 + FOOT
    }

    fn draw(&self, svg: &mut Drawing, top: f64) {
        svg.add(&format!(
            "<text x=\"20\" y=\"{:.1}\" font-size=\"15\" font-weight=\"600\" fill=\"{INK}\">{}</text>",
            top + 28.0,
            self.title
        ));
        let mut x = LEFT;
        for (name, colour) in &self.legend {
            svg.add(&format!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>",
                top + 40.0
            ));
            svg.text((x + 16.0, top + 50.0), "start", FAINT, name);
            // Seven pixels a letter.
            x += 36.0 + 7.0 * name.len() as f64;
        }
        let bottom = top + HEAD + ROW * self.rows.len() as f64;
        match self.scale {
            Scale::Even => self.bars(svg, top + HEAD, bottom),
            Scale::Decades => self.decades(svg, top + HEAD, bottom),
        }
        for (place, row) in self.rows.iter().enumerate() {
            let y = top + HEAD + ROW * place as f64 + ROW / 2.0 + 4.0;
            svg.text((LEFT - 10.0, y), "end", INK, &row.name);
        }
    }

    fn bars(&self, svg: &mut Drawing, top: f64, bottom: f64) {
        let all = |row: &Row| row.marks.iter().map(|(value, _)| value).sum::<f64>();
        let most = |row: &Row| row.spread.map_or(all(row), |spread| spread.most);
        let most = self.rows.iter().map(most).fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| LEFT + value / most * (RIGHT - LEFT);
        svg.down(LEFT, (top, bottom));
        for (place, row) in self.rows.iter().enumerate() {
            let y = top + ROW * place as f64 + (ROW - BAR) / 2.0;
            let mut from = 0.0;
            for (value, colour) in &row.marks {
                let (left, right) = (x(from), x(from + value));
                svg.add(&format!(
                    "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
                    right - left
                ));
                from += value;
            }
            let mut end = x(from);
            if let Some(spread) = row.spread {
                let (least, most, middle) = (x(spread.least), x(spread.most), y + BAR / 2.0);
                svg.add(&format!(
                    "<path d=\"M{least:.1} {middle:.1}H{most:.1}M{least:.1} {:.1}v6M{most:.1} {:.1}v6\" \
                     stroke=\"{INK}\" stroke-width=\"1.2\" fill=\"none\"/>",
                    middle - 3.0,
                    middle - 3.0
                ));
                end = end.max(most);
            }
            svg.text((end + 8.0, y + BAR - 2.0), "start", INK, &row.told);
        }
    }

    fn decades(&self, svg: &mut Drawing, top: f64, bottom: f64) {
        let values = || self.rows.iter().flat_map(|row| row.marks.iter().map(|(value, _)| *value));
        let x = Decades {
            low: values().fold(f64::MAX, f64::min).log10().floor(),
            high: values().fold(f64::MIN, f64::max).log10().ceil(),
            from: LEFT,
            to: RIGHT,
        };
        for power in x.low as i32..=x.high as i32 {
            let at = x.at(10_f64.powi(power));
            svg.down(at, (top, bottom));
            svg.text((at, bottom + 16.0), "middle", FAINT, &decade(power));
        }
        for (place, row) in self.rows.iter().enumerate() {
            let y = top + ROW * place as f64 + ROW / 2.0;
            svg.across((LEFT, RIGHT), y);
            for (value, colour) in &row.marks {
                svg.dot((x.at(*value), y), colour);
            }
        }
    }
}
